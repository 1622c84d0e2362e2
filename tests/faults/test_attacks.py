"""Study files, checkpoints and result folders of strangers: refused in a sentence, nothing runs."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import ctxbench
from ctxbench.cli import main
from ctxbench.core.assets import resolve_model
from ctxbench.core.atomic_file import write_inside
from ctxbench.core.errors import printable, raised_by_us, shown, user_message
from ctxbench.core.protocol import read_note, read_protocol
from ctxbench.models.ctxext import CtxExt
from ctxbench.report.formats import plain_markdown, write_csv
from ctxbench.report.heatmap import heat_maps, print_map
from ctxbench.report.result_files import find_runs
from ctxbench.report.write import write_report
from ctxbench.train.config import make_config
from tests.report.synthetic import mini_plan, write_study

# ---------------------------------------------------------------------- study files

HEAD = "title: t\nmodel: mini\nlength: 256\n"
ROWS = "rows: {a: {label: A, class: frozen, method: none}}\n"
COLUMNS = (
    "columns: {p: {kind: perplexity, task: 'mini_ppl_{length}', metric: nll, lengths: [256], "
    "higher_is_better: false}}\n"
)
BOMB = "shape:\n  a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"  {chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


def row(name, **entries):
    content = {"label": "A", "class": "frozen", "method": "none"} | entries
    return f"rows: {json.dumps({name: content})}\n"


FILES = {
    "itself": ("base: s.yaml\n", "built on itself"),
    "a number as base": ("base: 5\n" + HEAD + ROWS + COLUMNS, "base=5 is not allowed"),
    "placeholder": (HEAD + ROWS + COLUMNS.replace("{length}", "{size}"), "a placeholder that is"),
    "attribute": (HEAD + ROWS + COLUMNS.replace("{length}", "{length.x}"), "a placeholder that"),
    "lengths": (HEAD + ROWS + COLUMNS.replace("[256]", "{}"), "lengths={} is not allowed"),
    "keep_rows": (HEAD + ROWS + COLUMNS + "keep_rows: 1\n", "keep_rows=1 is not allowed"),
    "keep_rows of rows that are none": (HEAD + "rows: 5\nkeep_rows: [a]\n", "rows=5 is not"),
    "nested": ("title: " + "[" * 5000 + "]" * 5000 + "\n", "nested too deep"),
    "aliases": (BOMB + "title: *j\nmodel: mini\n" + ROWS + "columns: {}\n", "aliases"),
    "an alias in itself": ("title: &a [*a]\n", "holds itself"),
    "a path": (HEAD + row("../../../victim") + COLUMNS, "name='../../../victim' is not allowed"),
    "an absolute path": (HEAD + row("/tmp/x") + COLUMNS, "name='/tmp/x' is not allowed"),
    "a hidden folder": (HEAD + row(".git") + COLUMNS, "name='.git' is not allowed"),
    "a new line": (HEAD + row("a\nb") + COLUMNS, "is not allowed"),
    "a long name": (HEAD + row("a" * 200) + COLUMNS, "at most 100 letters"),
    "a column's path": (HEAD + ROWS + COLUMNS.replace("{p:", "{../p:"), "'../p' is not allowed"),
    "a comma": (HEAD + row("a", checkpoint="x,trust_remote_code=True") + COLUMNS, "another argum"),
    "an equals sign": (HEAD + row("a", checkpoint="x=y") + COLUMNS, "another argument"),
    "a comma in an argument": (
        HEAD + row("a", model_args={"dtype": "float32,trust_remote_code=True"}) + COLUMNS,
        "another argument",
    ),
    "a comma in the model": ("title: t\nmodel: 'mini,x'\nlength: 1\nwindow: 1\n" + ROWS + COLUMNS,
                             "another argument"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_study_files_of_strangers(name, tmp_path, capsys, monkeypatch):
    text, words = FILES[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(text)
    for command in (["plan", "s.yaml"], ["study", "s.yaml", "--output", "o", "--no-report"]):
        assert main(command) == 2
        assert words in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.yaml"]


def test_quick_that_is_no_mapping(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text(HEAD + ROWS + COLUMNS + "quick: true\n")
    assert main(["plan", str(tmp_path / "s.yaml"), "--quick"]) == 2
    assert "quick=True is not allowed; it must be a mapping" in capsys.readouterr().err


def test_names_in_files_of_results_are_names_of_folders():
    plan = mini_plan(lengths=(128,), seeds=(0,))
    plan["rows"][0]["name"] = "../x"
    with pytest.raises(ValueError, match=r"name='\.\./x' is not allowed"):
        read_protocol(plan, "study.json")
    note = {"row": "a", "seed": 0, "column": "/x", "status": "done", "reason": None}
    with pytest.raises(ValueError, match="column='/x' is not allowed"):
        read_note({**note, "command": None}, "cell.json")


def test_what_is_shown_of_a_value_is_short():
    endless = ["x"] * 9
    for _ in range(20):
        endless = [endless] * 9
    assert len(shown(endless)) < 5000
    assert len(shown("x" * 10**6)) < 300
    assert shown("\x1b[2J") == repr("\x1b[2J")


# ---------------------------------------------------------------------- checkpoints


@pytest.fixture
def checkpoint(tmp_path):
    return shutil.copytree(resolve_model("mini"), tmp_path / "checkpoint")


def change_weights(folder, change):
    weights = change(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def broken(weights, value):
    weights["model.norm.weight"][3] = value
    return weights


WEIGHTS = {
    "a layer is missing": (
        lambda w: {k: v for k, v in w.items() if "layers.3" not in k},
        r"has no model\.layers\.3.* and \d+ more.*random numbers",
    ),
    "another prefix": (lambda w: {"module." + k: v for k, v in w.items()}, r"has no .* and \d+ mo"),
    "another shape": (
        lambda w: w | {"model.norm.weight": torch.ones(7)},
        r"another shape than its config.json says: model\.norm\.weight|size mismatch|sizes",
    ),
    "NaN": (lambda w: broken(w, float("nan")), r"not finite: model\.norm\.weight"),
    "infinite": (lambda w: broken(w, float("inf")), r"not finite: model\.norm\.weight"),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("load", [ctxbench.load_model, lambda path: CtxExt(str(path))])
def test_weights_that_are_not_the_models_are_refused(name, load, checkpoint):
    change, words = WEIGHTS[name]
    change_weights(checkpoint, change)
    with pytest.raises(ValueError, match=words):
        load(checkpoint)


def test_weights_that_the_model_has_not_are_said(checkpoint, caplog):
    change_weights(checkpoint, lambda w: w | {"value_head.weight": torch.ones(3)})
    ctxbench.load_model(checkpoint)
    assert "take no part: value_head.weight" in caplog.text


def edited(file, **entries):
    def edit(folder):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | entries))

    return edit


def written(file, text):
    return lambda folder: (folder / file).write_text(text)


def rope(**entries):
    return edited(
        "config.json", rope_parameters={"rope_theta": 1e3, "rope_type": "default"} | entries
    )


CONFIGS = {
    "rope_type": rope(rope_type="foo"),
    "rope_theta is text": rope(rope_theta="10000"),
    "rope_theta is negative": rope(rope_theta=-1000.0),
    "hidden_size is text": edited("config.json", hidden_size="8"),
    "no heads": edited("config.json", num_attention_heads=0),
    "activation": edited("config.json", hidden_act="foo"),
    "sizes of other weights": edited("config.json", intermediate_size=7),
    "a package that is not here": edited(
        "config.json", quantization_config={"quant_method": "gptq", "bits": 4}
    ),
    "nested": written("config.json", '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
    "tokenizer.json": written("tokenizer.json", "[]"),
    "tokenizer_config.json": written("tokenizer_config.json", "[]"),
    "generation_config.json": written("generation_config.json", "[]"),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("load", [ctxbench.load_model, lambda path: CtxExt(str(path))])
def test_files_of_a_checkpoint_end_in_a_sentence(name, load, checkpoint):
    CONFIGS[name](checkpoint)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load(checkpoint)
    assert raised_by_us(caught.value)
    assert user_message(caught.value)


def test_a_run_does_not_train_into_what_it_reads(checkpoint, tmp_path):
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "x"}\n')
    values = {"model": str(checkpoint), "data": [str(text)], "tokens": 10**6, "length": 512}
    for output in (checkpoint, checkpoint / "inside", os.path.relpath(checkpoint)):
        with pytest.raises(ValueError, match=r"run's model .* would overwrite"):
            make_config("mini", {**values, "output": str(output)})
    link = tmp_path / "link"
    link.symlink_to(checkpoint)
    with pytest.raises(ValueError, match="run's model"):
        make_config("mini", {**values, "output": str(link)})
    with pytest.raises(ValueError, match="run's data"):
        make_config("mini", {**values, "output": str(text)})
    assert make_config("mini", {**values, "output": str(tmp_path / "new")}).output.endswith("new")


# ---------------------------------------------------------------------- writing


def test_nothing_is_written_through_a_link_or_outside(tmp_path):
    folder, outside = tmp_path / "out", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("mine")
    assert write_inside(folder, "a/b.txt", b"x").read_bytes() == b"x"
    (folder / "report.md").symlink_to(outside)
    (folder / "linked").symlink_to(tmp_path)
    for name in ("report.md", "linked/outside", "../outside", "a/../../outside", str(outside)):
        with pytest.raises(ValueError, match="is not written"):
            write_inside(folder, name, b"theirs")
    assert outside.read_text() == "mine"


@pytest.mark.parametrize("name", ["report.md", "tables.tex", "figures/figure-2.png", "figures"])
def test_a_report_overwrites_nothing_outside(name, tmp_path):
    plan = mini_plan(lengths=(128, 256), seeds=(0,))
    study = write_study(tmp_path / "study", plan, samples=4)
    mine = tmp_path / "mine"
    mine.mkdir() if name == "figures" else mine.write_text("mine")
    (study / "report" / name).parent.mkdir(parents=True, exist_ok=True)
    (study / "report" / name).symlink_to(mine)
    with pytest.raises(ValueError, match="is a link"):
        write_report(study)
    assert list(mine.iterdir()) == [] if name == "figures" else mine.read_text() == "mine"


EVIL = (
    "x\n\\input{/etc/passwd}\n\\immediate\\write18{id}\n# [a](javascript:b) "
    "<script>alert(1)</script>"
)


def test_texts_of_a_study_do_nothing_in_a_report(tmp_path):
    plan = mini_plan(lengths=(128, 256), seeds=(0,))
    plan["title"], plan["notes"] = f"=1+1 {EVIL}", [EVIL]
    plan["rows"][0]["label"] = f"=cmd {EVIL}"
    first = (plan["rows"][0]["name"], plan["columns"][0]["name"])
    study = write_study(tmp_path / "study", plan, samples=4, failed=[first])
    for file in study.rglob("cell.json"):
        content = json.loads(file.read_text())
        if content["status"] == "failed":
            file.write_text(json.dumps(content | {"reason": EVIL}))
    write_report(study, figures=False)
    report = study / "report"
    for line in (report / "tables.tex").read_text().splitlines():
        assert line.startswith("%") or r"\input{" not in line
        assert not line.startswith((r"\input", r"\immediate"))
    page, text = (report / "report.html").read_text(), (report / "report.md").read_text()
    assert "<script>alert" not in page
    assert "<script>alert" not in text
    assert "](javascript" not in text
    assert "\n# [a" not in text
    for file in report.rglob("*.csv"):
        for line in csv.reader(io.StringIO(file.read_text())):
            assert not any(cell.startswith("=") for cell in line), file


def test_formulas_are_texts_and_numbers_are_numbers():
    rows = [["=1+1", "+x", "@x", "-x", "-", "-0.5", "+1", -2, "x=1"]]
    assert next(csv.reader([write_csv(rows)])) == [
        "'=1+1", "'+x", "'@x", "'-x", "-", "-0.5", "+1", "-2", "x=1",
    ]  # fmt: skip
    assert plain_markdown("a\n[b](c) <d> `e`") == r"a [b]\(c) &lt;d> `e`"
    assert printable("\x1b]0;owned\x07\x1b[2J a\nb") == "]0;owned[2J a b"


def test_names_in_results_do_nothing_in_a_terminal(tmp_path, capsys):
    study = write_study(tmp_path / "study", mini_plan(lengths=(128, 256), seeds=(0,)), samples=10)
    maps = heat_maps(find_runs([study]), "score", None, None)
    for title in ("\x1b]0;owned\x07yarn", "yarn[/x]", "yarn [link=http://evil]x[/link]"):
        print_map(maps[0], title)
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert printable(title) in out


# ---------------------------------------------------------------------- small things


def test_a_reader_that_has_read_enough_ends_a_command():
    command = [sys.executable, "-m", "ctxbench.cli", "ls", "tasks"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
        assert asked.stdout
        assert asked.stderr
        asked.stdout.close()  # before anything is written
        assert asked.stderr.read() == b""
    assert asked.returncode == 0


def test_folders_that_are_files_are_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OSError, match=r".") as caught:
        CtxExt("mini", length=256, cache=str(file))
    assert "cannot be read or written" in str(user_message(caught.value))
