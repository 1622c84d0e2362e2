"""Config: precedence, strictness, and the recipes' numbers."""

import json
import math
import sys

import pytest
import yaml

from ctxbench.core.lengths import parse_tokens
from ctxbench.train import recipes as recipes_module
from ctxbench.train.cli import make_parser, parse_arguments, run
from ctxbench.train.config import (
    TrainConfig,
    as_dict,
    config_hash,
    make_config,
)
from ctxbench.train.recipes import list_recipes
from ctxbench.train.schedule import learning_rate

NEEDED = {"model": "mini", "data": "stdlib", "output": "out"}


def test_command_line_over_recipe_over_defaults(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("lr: 1e-4\nbatch_size: 8\nlength: 1k\ntokens: 1M\n")
    config = make_config(str(recipe), {**NEEDED, "batch_size": "16"})
    assert (config.lr, config.batch_size, config.length) == (1e-4, 16, 1024)
    assert config.tokens == 1_000_000
    assert config.weight_decay == TrainConfig().weight_decay


def test_paper_is_the_default():
    defaults, paper = make_config(None, NEEDED), make_config("paper", NEEDED)
    assert defaults == paper


# From the counts of the paper's data (30774 rows of 32768) and its code's settings: 961 updates as
# printed, 120 as run; trainer_golden: (recipe, updates, rows, {update from 0: rate}).
GOLDEN = [
    ("paper", 961, 32, {0: 1e-6, 9: 1e-5, 19: 2e-5, 20: 2e-5, 500: 2e-5, 960: 2e-5}),
    (
        "lceg",
        120,
        256,
        {
            0: 2e-5,  # before DeepSpeed's first step of its schedule
            1: 0.0,  # ln 1
            2: 2e-5 * math.log(2) / math.log(20),
            10: 1.5372e-5,
            20: 2e-5,
            21: 2e-5,
            71: 1e-5,
            119: 4e-7,  # 2 / 100 of the peak
        },
    ),
    ("longlora", 1000, 64, {0: 1e-6, 19: 2e-5, 999: 2e-5}),
    ("prolong", 4768, 64, {476: 1e-5, 477: 1e-5, 4767: 1e-6}),
    ("mini", 160, 4, {0: 4e-4, 9: 4e-3, 80: 4e-3, 120: 4e-3 * 0.525, 159: 4e-3 * 0.061875}),
]


@pytest.mark.parametrize(("recipe", "steps", "rows", "rates"), GOLDEN, ids=lambda v: str(v)[:8])
def test_recipe_golden(recipe, steps, rows, rates):
    config = make_config(recipe, NEEDED)
    assert config.steps == steps
    assert config.batch_size == rows
    assert config.tokens_per_step == rows * config.length
    for step, rate in rates.items():
        # four digits: some rates are written rounded
        assert learning_rate(config, step) == pytest.approx(rate, rel=2e-4, abs=1e-12), step


def test_deepspeeds_rates_are_those_of_its_engine(golden_dir):
    for line in (golden_dir / "official2" / "train" / "lr.jsonl").read_text().splitlines():
        run = json.loads(line)
        config = make_config(
            "lceg", {**NEEDED, "tokens": run["total"] * 256 * 32768, "warmup": run["warmup"]}
        )
        ours = [learning_rate(config, step) for step in range(config.steps)]
        # a quotient for a product with an inverse: the last bit of the warm-up
        assert ours == pytest.approx(run["official"], rel=5e-16, abs=0), run["total"]


def test_lceg_batch_is_eight_million_tokens_and_paper_an_eighth():
    assert make_config("lceg", NEEDED).tokens_per_step == 8_388_608
    assert make_config("paper", NEEDED).tokens_per_step == 1_048_576


def test_every_recipe_loads_and_names_its_source():
    assert list_recipes() == [
        "lceg", "longlora", "mini", "mini-base", "mini-landmark",
        "paper", "prolong",
    ]  # fmt: skip
    for name in list_recipes():
        assert make_config(name, NEEDED).steps > 0


def test_recipes_are_found_in_an_installed_wheel(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "ctxbench"
    (package / "_train" / "recipes").mkdir(parents=True)
    (package / "_train" / "recipes" / "one.yaml").write_text("lr: 1")
    monkeypatch.setattr(recipes_module, "PACKAGE", package)
    assert list_recipes() == ["one"]
    (package / "_train" / "recipes" / "one.yaml").unlink()
    (package / "_train" / "recipes").rmdir()
    with pytest.raises(FileNotFoundError, match="Reinstall"):
        list_recipes()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lenght": 32}, "'lenght' is not a setting; did you mean length"),
        ({"lr": "fast"}, "lr='fast' is not allowed; it must be a number of at least 0"),
        ({"schedule": "triangle"}, "'constant' or 'linear' or 'cosine'"),
        ({"batch_size": 1.5}, "batch_size=1.5 is not allowed"),
        ({"activation_checkpointing": "yes"}, "'full' or 'selective' or 'none'"),
        ({"document_mask": "yes"}, "must be true or false"),
        ({"tokens": "many"}, "tokens='many' is not allowed; it must be a number of tokens"),
        ({"tokens": 100}, "less than one update"),
        ({"model": ""}, "No model was given"),
        ({"warmup": 961}, "warmup=961 steps, but the run has 961"),
        ({"hold": 0.5}, "hold=0.5 would be ignored, because schedule='constant'"),
        ({"lora_alpha": 16}, "lora_alpha=16.0 would be ignored, because lora_rank=0"),
        ({"eval_every": 5}, "would be ignored, because eval_data"),
        ({"own_lr": 0.5}, "own_lr=0.5 would be ignored, because method='none'"),
        ({"own_lr": 0.5, "method": "pi"}, "own_lr=0.5 would be ignored, because method='pi'"),
        (
            {"hold": 1, "schedule": "linear", "final_lr": 0.1},
            "final_lr=0.1 would be ignored, because hold=1",
        ),
        (
            {"activation_checkpointing": "selective", "attention": "eager"},
            "would be ignored, because attention='eager'",
        ),
        ({"eval_data": "stdlib"}, "without eval_lengths"),
        ({"hold": 2, "schedule": "linear"}, "at least 0 and at most 1"),
        ({"stages": [{"length": 3, "steps": 1, "data": "stdlib"}]}, "does not divide"),
        ({"stages": [{"length": 3}]}, "stages has no 'steps'\\. It needs length, steps, data"),
        ({"seed": -1}, "at least 0"),
    ],
    ids=str,
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        make_config(None, {**NEEDED, **values})


def test_switching_a_recipe_off_does_not_blame_the_recipe():
    assert make_config("mini", {**NEEDED, "schedule": "constant"}).hold == 0.5
    with pytest.raises(ValueError, match=r"hold=0\.2 would be ignored"):
        make_config("mini", {**NEEDED, "schedule": "constant", "hold": 0.2})


def test_what_some_methods_ignore_is_allowed_in_a_recipe():
    assert make_config("mini", {**NEEDED, "method": "pi"}).own_lr == 0.01
    assert make_config("mini", {**NEEDED, "method": "clex", "own_lr": 0.5}).own_lr == 0.5


def test_unknown_recipe_lists_near_names():
    with pytest.raises(FileNotFoundError, match="did you mean paper"):
        make_config("papier", NEEDED)


@pytest.mark.parametrize(
    ("text", "tokens"), [("1B", 10**9), ("0.5M", 500_000), (655360, 655360), ("2_000", 2000)]
)
def test_parse_tokens(text, tokens):
    assert parse_tokens(text) == tokens


def test_hash_is_of_what_decides_the_weights():
    one = make_config("mini", NEEDED)
    assert config_hash(one) == config_hash(make_config("mini", {**NEEDED, "output": "elsewhere"}))
    assert config_hash(one) == config_hash(make_config("mini", {**NEEDED, "micro_batch_size": 1}))
    assert config_hash(one) != config_hash(make_config("mini", {**NEEDED, "seed": 1}))


def test_batch_that_does_not_divide_says_what_does():
    config = make_config("mini", NEEDED)
    assert (config.accumulation(1), config.accumulation(2)) == (2, 1)
    with pytest.raises(ValueError, match="Allowed micro_batch_size: 1\\."):
        config.accumulation(4)


def test_a_saved_config_is_a_recipe_of_itself(tmp_path):
    config = make_config("mini-base", {"output": "out"})
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(as_dict(config)))
    assert make_config(str(tmp_path / "train.yaml")) == config


def test_command_line_has_every_setting_with_a_text():
    text = make_parser().format_help()
    assert "--micro-batch-size" in text
    assert "dynamic_ntk" in text
    assert "(default 32768)" in text


def test_command_line_values():
    line = "--recipe mini --method dynamic_ntk --output out --option factor=2 --lr 1e-3 "
    config, recipe, dry = parse_arguments((line + "--no-document-mask --dry-run").split())
    assert (recipe, dry) == ("mini", True)
    assert config.options == {"factor": "2"}
    assert config.lr == 1e-3
    assert config.betas == (0.9, 0.98)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--metod pi", "did you mean --method"),
        ("--schedule steep", "invalid choice"),
        ("--option factor", "not NAME=VALUE"),
        ("--length", "expected one argument"),
    ],
)
def test_command_line_errors(line, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--recipe", "mini", "--output", "out", *line.split()])


def test_dry_run_prints_and_stops(capsys, tmp_path):
    run(["--recipe", "mini", "--method", "pi", "--output", str(tmp_path / "out"), "--dry-run"])
    text = capsys.readouterr().out
    assert "160 steps of 4,096 tokens" in text
    assert "1,016,960 parameters" in text
    assert "memory per device" in text
    assert "hours on 1 x A100" in text
    assert not (tmp_path / "out").exists()


def test_command_reports_errors_in_one_message(capsys, monkeypatch):
    from ctxbench.train.cli import main

    monkeypatch.setattr(sys, "argv", ["ctxbench-train", "--recipe", "mini", "--lr", "x"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err.startswith("ctxbench-train: lr='x' is not allowed")


def test_out_of_memory_names_the_knobs(monkeypatch):
    import torch

    def fail(*_, **__):
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr("ctxbench.train.loop.train", fail)
    with pytest.raises(ValueError, match=r"2 GiB What helps.*--micro-batch-size 1.*--lora-rank 8"):
        run(["--recipe", "mini", "--output", "out"])
