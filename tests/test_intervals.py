"""Wilson's interval against published numbers and its own definition."""

import pytest

from ctxbench.core.intervals import high, low, wilson


def test_the_interval_is_the_score_tests_inversion():
    # The ends are the shares p whose score statistic (mean - p) / sqrt(p (1 - p) / n) is +-1.96.
    for right, n in ((0, 5), (5, 5), (3, 10), (49, 50)):
        mean = right / n
        for end in wilson([1.0] * right + [0.0] * (n - right)):
            if 0 < end < 1:
                assert abs(mean - end) / (end * (1 - end) / n) ** 0.5 == pytest.approx(1.959964)


def test_ends():
    # n z^2 arithmetic by hand: 5 of 5 gives 5 / (5 + 3.8415)
    assert low([1.0] * 5) == pytest.approx(5 / (5 + 1.959964**2))
    assert high([1.0] * 5) == pytest.approx(1.0)
    assert low([0.0] * 5) == 0.0
