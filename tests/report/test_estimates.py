"""Intervals and paired tests against closed forms and exact enumerations."""

import math
import random
from dataclasses import replace
from math import comb

import pytest

from ctxbench.core.intervals import wilson, wilson_of_mean
from ctxbench.report.estimates import (
    contrast,
    difference,
    estimate,
    holm,
    over_seeds,
    sign_flip,
    student,
    student_p,
)
from ctxbench.report.samples import Sample


def records(values, units=None, weights=None):
    units = units or [f"u{n}" for n in range(len(values))]
    weights = weights or [1.0] * len(values)
    return tuple(
        Sample(f"d{n}", unit, value * weight, weight)
        for n, (value, unit, weight) in enumerate(zip(values, units, weights, strict=True))
    )


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    # any table of Student's distribution, two-sided 5 %, three decimals
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (1000, 1.962)],
)
def test_student(freedom, quantile):
    assert student(freedom) == pytest.approx(quantile, abs=0.0005)


@pytest.mark.parametrize(("freedom", "t", "p"), [(5, 4.032, 0.01), (6, 3.707, 0.01), (1, 1.0, 0.5)])
def test_p_of_student(freedom, t, p):
    """Quantiles of the same tables at 1 %, and the Cauchy distribution's quartile."""
    assert student_p(t, freedom) == pytest.approx(p, abs=2e-5)


@pytest.mark.parametrize("right", [0, 1, 24, 49, 50])
def test_one_task_of_right_or_wrong_is_wilson(right):
    scores = [1.0] * right + [0.0] * (50 - right)
    found = estimate({"a": records(scores)}, perplexity=False)
    assert (found.low, found.high) == pytest.approx(wilson(scores), abs=1e-8)  # 1.959964
    assert found.value == right / 50


def test_perplexity_is_a_ratio_of_sums_with_student_s_interval():
    losses, weights = [2.0, 2.5, 3.0], [100.0, 100.0, 200.0]
    found = estimate({"a": records(losses, weights=weights)}, perplexity=True)
    mean = (200 + 250 + 600) / 400
    residuals = [w * (x - mean) for x, w in zip(losses, weights, strict=True)]
    error = math.sqrt(sum(r * r for r in residuals) * 3 / 2) / 400
    assert found.value == pytest.approx(math.exp(mean))
    assert found.low == pytest.approx(math.exp(mean - student(2) * error))
    assert found.high == pytest.approx(math.exp(mean + student(2) * error))
    alone = estimate({"a": records([2.0])}, perplexity=True)
    assert alone.low != alone.low, "one text gives no interval"


def test_texts_are_the_units_not_their_pieces():
    """The same 40 losses: in 4 texts that differ, or all independent."""
    losses = [2.0 + 0.5 * (n % 4) for n in range(40)]
    together = estimate({"a": records(losses, [f"t{n % 4}" for n in range(40)])}, perplexity=True)
    apart = estimate({"a": records(losses)}, perplexity=True)
    assert together.units == 4
    assert together.high - together.low > 3 * (apart.high - apart.low)


def test_runs_of_shots_are_the_units():
    scores = [float(n % 5 < 3) for n in range(100)]  # a run is all right or all wrong
    by_run = estimate({"a": records(scores, [f"run {n % 5}" for n in range(100)])}, False)
    alone = estimate({"a": records(scores)}, False)
    assert by_run.high - by_run.low > 2 * (alone.high - alone.low)


def test_a_mean_of_tasks_weighs_tasks_the_same_and_is_narrower_than_one_task():
    many, few = records([1.0] * 30 + [0.0] * 10), records([1.0, 0.0])
    found = estimate({"a": many, "b": few}, perplexity=False)
    assert found.value == pytest.approx((0.75 + 0.5) / 2)
    thirteen = {
        f"t{n}": records([1.0, 0.0] * 20, [f"{n} {i}" for i in range(40)]) for n in range(13)
    }
    mean, one = estimate(thirteen, False), estimate({"t0": thirteen["t0"]}, False)
    assert mean.high - mean.low == pytest.approx((one.high - one.low) / math.sqrt(13), rel=0.1)


def test_the_same_documents_at_several_lengths_are_no_more_units():
    scores = [1.0, 0.0] * 20
    lengths = {f"needle_{n}k": records(scores) for n in (1, 2, 4)}
    mean, one = estimate(lengths, False), estimate({"a": lengths["needle_1k"]}, False)
    assert mean.high - mean.low == pytest.approx(one.high - one.low, rel=0.05)  # t, not z


def test_coverage():
    """Of 400 studies with a true share of .8, about 95 % of the intervals hold it."""
    rng = random.Random(0)
    held = 0
    for _ in range(400):
        scores = [float(rng.random() < 0.8) for _ in range(50)]
        found = estimate({"a": records(scores)}, False)
        held += found.low <= 0.8 <= found.high
    assert 0.92 <= held / 400 <= 0.98  # 4 binomial standard errors of 400 trials are .044


def test_seeds_are_averaged_per_document_and_must_share_it():
    one, two = {"a": records([1.0, 0.0, 1.0])}, {"a": records([0.0, 0.0])}
    (first, second) = over_seeds([one, two])["a"]
    assert (first.total, second.total) == (0.5, 0.0)


# ---------------------------------------------------------------- paired tests


@pytest.mark.parametrize(("wins", "losses"), [(5, 0), (6, 1), (3, 3), (9, 2)])
def test_sign_flip_is_mcnemar_on_right_or_wrong_samples(wins, losses):
    values = [1.0] * wins + [-1.0] * losses + [0.0] * 30
    n, k = wins + losses, min(wins, losses)
    exact = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)
    assert sign_flip(values) == pytest.approx(exact)


def test_sign_flip_drawn_is_near_the_exact_one_and_repeats():
    wins, losses = 20, 8
    exact = 2 * sum(comb(28, i) for i in range(losses + 1)) / 2**28
    drawn = sign_flip([1.0] * wins + [-1.0] * losses)
    assert drawn == sign_flip([1.0] * wins + [-1.0] * losses)
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact / 9999))  # 4 errors of 9999 draws


def test_difference_is_paired():
    """Equal marginal scores, but one is right wherever the other is and once more."""
    base = [1.0, 0.0] * 20
    better = [1.0, 1.0] * 6 + base[12:]
    paired = difference({"a": records(better)}, {"a": records(base)}, False)
    assert paired.value == pytest.approx(6 / 40)
    assert paired.p == pytest.approx(2 * 0.5**6)
    assert paired.low > 0, "unpaired, .15 of 40 would not be told from 0"
    other = difference({"a": records(base)}, {"a": records(better)}, False)
    assert (other.low, other.high) == pytest.approx((-paired.high, -paired.low))


def test_agreement_on_everything_leaves_an_interval():
    found = difference({"a": records([1.0] * 20)}, {"a": records([0.0] * 20)}, False)
    assert found.value == 1
    assert 0.7 < found.low < 1 == found.high


def test_difference_of_losses_is_student_s():
    one, two = [2.0, 2.1, 2.4, 2.2], [1.9, 2.1, 2.1, 2.0]
    found = difference({"a": records(one)}, {"a": records(two)}, True)
    gaps = [a - b for a, b in zip(one, two, strict=True)]
    mean = sum(gaps) / 4
    error = math.sqrt(sum((g - mean) ** 2 for g in gaps) / 3 / 4)
    assert found.value == pytest.approx(mean)
    assert found.high - mean == pytest.approx(student(3) * error)
    assert found.p == pytest.approx(student_p(mean / error, 3))
    same = difference({"a": records(one)}, {"a": records(one)}, True)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_only_common_documents_are_compared():
    one, two = records([1.0] * 4), records([0.0] * 9)
    assert difference({"a": one}, {"a": two}, False).units == 4
    assert difference({"a": one}, {"b": two}, False) is None


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


# ------------------------------------------------- one length against another


def other_length(records):
    """The same documents as another leaf task has them: other names, the same units."""
    return {"task_2k": tuple(replace(r, document=f"{r.document} at 2k") for r in records)}


def test_contrast_of_losses_is_student_s_over_the_texts_both_have():
    short, long = [2.0, 2.1, 2.4, 2.2, 9.9], [2.2, 2.2, 2.7, 2.3]
    found = contrast(other_length(records(long)), {"task_1k": records(short)}, 1.25, True)
    gaps = [b - a for a, b in zip(short, long, strict=False)]
    mean = sum(gaps) / 4
    error = math.sqrt(sum((g - mean) ** 2 for g in gaps) / 3 / 4)
    assert found.units == 4, "the fifth text was measured at one length only"
    assert found.value == pytest.approx(mean - math.log(1.25))
    assert found.high - found.value == pytest.approx(student(3) * error)
    assert found.value - found.low == pytest.approx(student(3) * error)


def test_contrast_weighs_texts_by_their_tokens():
    """Losses of a ratio of sums: 3 texts of other lengths, by hand."""
    weights, one, two = [100.0, 300.0, 50.0], [2.0, 2.5, 3.0], [2.2, 2.4, 3.3]
    found = contrast(
        other_length(records(two, weights=weights)), {"a": records(one, weights=weights)}, 1.0, True
    )
    share = [w / 450 for w in weights]
    gaps = [b - a for a, b in zip(one, two, strict=True)]
    mean = sum(s * g for s, g in zip(share, gaps, strict=True))
    moved = [s * (g - mean) for s, g in zip(share, gaps, strict=True)]
    assert found.value == pytest.approx(mean)
    assert found.high - mean == pytest.approx(
        student(2) * math.sqrt(3 / 2 * sum(m * m for m in moved))
    )


def test_contrast_of_scores_is_newcombe_s():
    """Share 1: the paired difference of the same documents; share .5: narrower than unpaired."""
    one, two = [1.0, 1.0] * 6 + [1.0, 0.0] * 14, [1.0, 0.0] * 20
    plain = difference({"a": records(one)}, {"a": records(two)}, False)
    found = contrast(other_length(records(one)), {"a": records(two)}, 1.0, False)
    assert (found.value, found.low, found.high, found.units) == pytest.approx(
        (plain.value, plain.low, plain.high, plain.units)
    )
    less = contrast(other_length(records(one)), {"a": records(two)}, 0.5, False)
    low, high = wilson(one)
    below, above = wilson(two)
    assert less.value == pytest.approx(0.65 - 0.5 * 0.5)
    assert less.high - less.low < math.hypot(high - low, (above - below) / 2), "correlated"


def test_contrast_without_a_common_document_is_not_paired():
    one = {"a": records([1.0, 0.0] * 10)}
    two = {"b": records([1.0] * 20, [f"other {n}" for n in range(20)])}
    found = contrast(one, two, 1.0, False)
    (low, high), (below, above) = wilson([1.0, 0.0] * 10), wilson([1.0] * 20)
    assert found.units == 0
    assert found.low == pytest.approx(-0.5 - math.hypot(0.5 - low, above - 1.0), abs=1e-8)
    assert found.high == pytest.approx(-0.5 + math.hypot(high - 0.5, 1.0 - below), abs=1e-8)


def test_paired_intervals_hold_what_they_should():
    """Of 300 studies of 24 texts with a true ratio of 1.1, about 95 % of the intervals hold it."""
    rng = random.Random(4)
    held = 0
    for _ in range(300):
        texts = [rng.gauss(2.5, 0.5) for _ in range(24)]
        one = [t + math.log(1.1) + rng.gauss(0, 0.1) for t in texts]
        two = [t + rng.gauss(0, 0.1) for t in texts]
        found = contrast(other_length(records(one)), {"a": records(two)}, 1.1, True)
        held += found.low <= 0 <= found.high
    assert 0.91 <= held / 300 <= 0.99  # 3 binomial standard errors of 300 trials are .038


# --------------------------------------------------------------- shares of tasks


def test_shares_weigh_tasks():
    """A macro mean of (a, b) and (c): a quarter, a quarter, a half; its variance is worth 80
    independent scores, but there are 60 documents.
    """
    leaves = {
        name: records([1.0] * right + [0.0] * (20 - right), [f"{name} {n}" for n in range(20)])
        for name, right in (("a", 20), ("b", 10), ("c", 5))
    }
    shares = {"a": 0.5, "b": 0.5, "c": 1.0}
    found = estimate(leaves, False, shares)
    assert found.value == pytest.approx((1.0 + 0.5) / 4 + 0.25 / 2)
    variance = (0.25 / 16 + 0.1875 / 4) / 20
    assert found.value * (1 - found.value) / variance == pytest.approx(80)
    assert (found.low, found.high) == pytest.approx(wilson_of_mean(0.5, 60), abs=1e-6)
    steep = estimate(leaves, False, {"a": 0.1, "b": 0.1, "c": 1.0})  # nearly c alone
    variance = (0.25 / 144 + 0.1875 / 1.44) / 20
    ends = wilson_of_mean(steep.value, steep.value * (1 - steep.value) / variance)
    assert (steep.low, steep.high) == pytest.approx(ends, abs=1e-6)
    paired = difference(leaves, dict.fromkeys(leaves, leaves["c"]), False, shares)
    assert paired.value == pytest.approx(found.value - 0.25)
