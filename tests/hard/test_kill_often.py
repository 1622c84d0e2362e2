"""The script of docs/faults.md, a few kills of a short evaluation."""

import sys

import pytest

from tests.hard import kill_often


@pytest.mark.slow
def test_killed_at_random_moments_an_evaluation_loses_a_batch_at_most(
    tmp_path, monkeypatch, capsys
):
    command = ["--kills", "3", "--only", "lm_eval", "--tasks", "mini_needle_1k,mini_ppl_512"]
    monkeypatch.setattr(sys, "argv", ["kill_often", *command, "--folder", str(tmp_path)])
    kill_often.main()
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("lm_eval: 3 kills")
    assert "all equal; no answer lost or computed twice" in said
