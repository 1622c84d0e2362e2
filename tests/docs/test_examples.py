"""The files of CONTRIBUTING.md do what it says: a method and a task of one's own run in lm_eval."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ctxbench
from ctxbench.methods.attach import method_of
from tests.docs.pages import ROOT

EXAMPLES = ROOT / "examples"


def code_lines(file: Path) -> int:
    """Return the lines that are neither empty nor comment."""
    lines = file.read_text().splitlines()
    return sum(bool(line.strip()) and not line.startswith("#") for line in lines)


def test_they_are_as_short_as_it_says():
    assert code_lines(EXAMPLES / "my_method.py") <= 25
    assert code_lines(EXAMPLES / "my_task" / "my_recall_256.yaml") <= 15
    assert code_lines(EXAMPLES / "my_task" / "dataset.py") <= 25


def test_the_methods_formula(monkeypatch):
    monkeypatch.setenv("CTXBENCH_METHODS", str(EXAMPLES))
    model, _ = ctxbench.load_model("mini", "my_method", length=1024)
    found, scale = method_of(model).frequencies(model.config, 1024)
    theta = 1000.0 ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    expected = torch.cat((theta[:16], theta[16:] / 4))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert scale == 1.0


@pytest.mark.slow
def test_method_and_task_together_in_lm_eval(tmp_path):
    command = [
        *(sys.executable, "-m", "lm_eval", "--model", "ctxext"),
        *("--model_args", "pretrained=mini,method=my_method,length=512"),
        *("--include_path", str(EXAMPLES / "my_task"), "--tasks", "my_recall_256,my_recall_512"),
        *("--output_path", str(tmp_path)),
    ]
    environment = {**os.environ, "CTXBENCH_METHODS": str(EXAMPLES), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = tmp_path.rglob("results_*.json")
    results = json.loads(file.read_text())
    assert results["config"]["ctxbench"]["method"] == "my_method"
    for task in ("my_recall_256", "my_recall_512"):
        assert 0 <= results["results"][task]["score,none"] <= 1


def test_the_task_is_one_the_mini_model_can_do():
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    results = simple_evaluate(
        model="ctxext",
        model_args={"pretrained": "mini"},
        tasks=["my_recall_256"],
        task_manager=TaskManager(
            include_path=str(EXAMPLES / "my_task"),
            include_defaults=False,
            metadata={"pretrained": "mini"},
        ),
        bootstrap_iters=0,
    )
    assert results["results"]["my_recall_256"]["score,none"] >= 0.5
