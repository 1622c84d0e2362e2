"""Correlations and their intervals."""

import math
import random

import pytest

from ctxbench.report.correlation import Point, ranks, scopes
from ctxbench.report.estimates import correlation


def points(pairs, group="exact"):
    return [
        Point(f"r{n}", group, math.exp(loss), score, (0, 0), (0, 0))
        for n, (loss, score) in enumerate(pairs)
    ]


def test_ranks_share_ties():
    assert ranks([3.0, 1.0, 3.0, 2.0]) == [3.5, 1.0, 3.5, 2.0]


def test_known_values():
    """Anscombe's first set: r = 0.81642."""
    x = [10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5]
    y = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68]
    assert correlation(x, y) == pytest.approx(0.81642, abs=1e-5)
    assert math.isnan(correlation([1.0, 1.0], [1.0, 2.0]))


def test_intervals():
    """Fisher's z: r = -0.9 over 12 rows gives tanh(atanh r -+ 1.96 / 3)."""
    rng = random.Random(1)
    pairs = [(n / 10, -n + 3 * rng.random()) for n in range(12)]
    name, rank, linear = scopes(points(pairs))[0]
    assert (name, rank.count) == ("all rows", 12)
    expected = math.tanh(math.atanh(linear.value) - 1.959964 / 3)
    assert linear.low == pytest.approx(expected)
    assert rank.low < rank.value < rank.high < 0


def test_few_rows_have_no_interval():
    four = points([(1, 3), (2, 2), (3, 1), (4, 0)])
    found = {name: rank for name, rank, _ in scopes(four)}
    assert found["all rows"].value == pytest.approx(-1)
    assert math.isnan(found["all rows"].low)
    assert "too few rows" in str(found["all rows"])


def test_two_groups_can_make_a_relation_that_neither_has():
    """Across: strong. Within classes: none."""
    rng = random.Random(3)
    good = points([(1 + 0.01 * rng.random(), 0.9 + 0.01 * rng.random()) for _ in range(12)])
    bad = points(
        [(4 + 0.01 * rng.random(), 0.1 + 0.01 * rng.random()) for _ in range(12)], "frozen"
    )
    found = {name: (rank, linear) for name, rank, linear in scopes([*good, *bad])}
    assert found["all rows"][1].value < -0.99
    rank, linear = found["within classes"]
    assert rank.low < 0 < rank.high
    assert linear.low < 0 < linear.high
    assert "Exact attention, fine-tuned" in found


def test_a_side_that_does_not_vary():
    assert str(scopes(points([(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]))[0][1]).startswith("none")
