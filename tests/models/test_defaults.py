"""The two commands of the first line of the README, as they stand: no model is named."""

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from ctxbench.models.ctxext import CtxExt
from ctxbench.tasks.leaf_files import tasks_path
from ctxbench.train.cli import parse_arguments


def test_without_arguments_the_bundled_model_runs_at_the_length_of_its_tasks(caplog):
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False)
    found = simple_evaluate(
        model="ctxext", tasks=["passkey_1k", "mini_ppl_512"], task_manager=manager, limit=1,
        bootstrap_iters=0,
    )  # fmt: skip
    assert found is not None
    said = found["config"]["ctxbench"]
    assert (said["method"], said["length"]) == ("dynamic_ntk", 1024)
    assert said["no_model_given"] == "pretrained=mini,method=dynamic_ntk"
    assert found["configs"]["passkey_1k"]["metadata"]["prompts"]["window"] == 1024
    assert "--model_args pretrained=FOLDER_OR_ID,method=NAME,length=N" in caplog.text
    assert "1 requests of " in caplog.text
    assert "makes it shorter" in caplog.text


def test_what_lm_eval_hands_to_every_model_is_no_argument():
    lm = CtxExt(batch_size=2, max_batch_size=None, device="cpu")
    assert lm.is_default
    assert lm.max_length == 256
    lm.window.check([(300, "t"), (3000, "t")])
    assert lm.max_length == 4096
    assert "no_model_given" in lm.get_model_info()["ctxbench"]


@pytest.mark.parametrize(
    "given",
    [{"method": "pi"}, {"length": 512}, {"cache": "x"}, {"window_bos": True}, {"dtype": "x"}],
)
def test_an_argument_without_a_model_is_a_sentence(given):
    with pytest.raises(ValueError, match=r"no pretrained=MODEL among them\. Give a folder"):
        CtxExt(**given)


def test_a_named_model_keeps_its_window():
    lm = CtxExt("mini", "dynamic_ntk", length=256)
    assert not lm.is_default
    with pytest.raises(ValueError, match="the window is 256 tokens"):
        lm.window.check([(300, "t")])


def test_training_without_a_model_takes_the_bundled_one(capsys):
    config, recipe, _ = parse_arguments(["--method", "pi", "--seed", "3"])
    assert (recipe, config.output, config.method, config.seed) == ("mini", "mini-pi", "pi", 3)
    assert "--recipe mini into mini-pi. A real one: --model" in capsys.readouterr().err
    config, *_ = parse_arguments(["--method", "yarn", "--output", "mine"])
    assert config.output == "mine"


@pytest.mark.parametrize("given", [["--model", "mini"], ["--data", "stdlib"]])
def test_training_with_half_of_it_is_a_sentence(given):
    with pytest.raises(ValueError, match=r"was given\. Every run needs one"):
        parse_arguments(["--method", "pi", *given])


@pytest.mark.parametrize("given", [{"batch_size": 0}, {"batch_size": "x"}, {"max_batch_size": 0}])
def test_a_batch_of_no_rows_is_a_sentence(given):
    with pytest.raises(ValueError, match="must be a whole number of at least 1"):
        CtxExt("mini", **given)
