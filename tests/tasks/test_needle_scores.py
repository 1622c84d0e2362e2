"""The needle's scores against the LCEG study's own functions."""

import json

import pytest

from ctxbench.tasks.needle_scores import EXPECTED, overlap, rouge1_x10


def test_scores_are_those_of_the_study(golden_dir):
    lines = (golden_dir / "ruler" / "scores.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["metric"] == "needle"]
    assert len(rows) == 250
    for row in rows:
        assert overlap(row["prediction"]) == row["lceg_heatmap_overlap"]
        rouge = rouge1_x10(row["prediction"], row["needle"])
        assert rouge == pytest.approx(row["rouge1_f_x10"], abs=1e-9)  # float64 sums


def test_a_perfect_answer_gets_eleven_twelfths():
    assert overlap(EXPECTED) == 11 / 12
