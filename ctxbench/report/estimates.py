"""Numbers with 95 % intervals, and paired tests between rows, from samples.

A number is the mean over leaf tasks of (sum of totals) / (sum of weights); the tasks weigh the same
unless shares are given. Its variance is that of a ratio of sums over independent units (Cochran
1977, section 6): documents, the texts they were cut from, or runs of shots. Scores get Wilson's
interval at the number of independent scores that variance is worth, never more than there are
documents; with documents as units and one task that is the plain Wilson interval. Perplexities get
exp(mean +- t * se). Seeds are averaged per document before: an interval is about the documents, and
the seeds' own numbers are shown beside it. Two numbers are compared on the units both have.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, fmean

from ctxbench.core.intervals import wilson_of_mean
from ctxbench.report.samples import Sample

LEVEL = 0.05
_SMALLEST = 1e-15  # p; below, rounding
_DRAWS = 9999
_EXACT = 12  # units up to which every assignment of signs is tried

Leaves = Mapping[str, Sequence[Sample]]
"""Samples by leaf task."""

Shares = Mapping[str, float]
"""How much a leaf task weighs in a mean; without them all weigh the same."""


@dataclass(frozen=True)
class Estimate:
    """A number and its interval.

    Attributes:
        value: between 0 and 1, or a perplexity.
        low: lower end; NaN where there is one unit only.
        high: upper end.
        units: independent units behind it.
        documents: documents behind it.
    """

    value: float
    low: float
    high: float
    units: int
    documents: int


def student_p(t: float, freedom: int) -> float:
    """Return the two-sided p of Student's t."""
    from scipy.special import stdtr

    return max(2 * float(stdtr(freedom, -abs(t))), _SMALLEST)


@cache
def student(freedom: int) -> float:
    """Return Student's two-sided 5 % quantile."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - LEVEL / 2))


def over_seeds(seeds: Iterable[Leaves]) -> dict[str, tuple[Sample, ...]]:
    """Return samples averaged over seeds (or rows), per document, as far as all have it."""
    together: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    count = 0
    for leaves in seeds:
        count += 1
        for leaf, records in leaves.items():
            for record in records:
                together[leaf][record.document].append(record)
    return {
        leaf: tuple(_mean(same) for same in documents.values() if len(same) == count)
        for leaf, documents in together.items()
    }


def _mean(same: list[Sample]) -> Sample:
    first = same[0]
    totals, weights = fmean(r.total for r in same), fmean(r.weight for r in same)
    positions = tuple(
        (fmean(nll for nll, _ in parts), fmean(tokens for _, tokens in parts))
        for parts in zip(*(r.positions for r in same), strict=True)
    )
    return Sample(
        first.document,
        first.unit,
        totals,
        weights,
        first.length,
        first.depth,
        positions,
        first.bucket,
    )


def estimate(leaves: Leaves, perplexity: bool, shares: Shares | None = None) -> Estimate:
    """Return the number of some leaf tasks with its interval."""
    value, residuals = _influence(leaves, shares)
    documents = sum(len(records) for records in leaves.values())
    units = len(residuals)
    variance = math.fsum(r * r for r in residuals.values())
    if perplexity:
        spread = _student_spread(list(residuals.values()))
        ends = math.exp(value - spread), math.exp(value + spread)
        return Estimate(math.exp(value), *ends, units, documents)
    worth = value * (1 - value) / variance if variance > 0 else math.inf
    clustered = units < documents
    quantile = student(units - 1) if clustered and units > 1 else NormalDist().inv_cdf(0.975)
    ends = wilson_of_mean(value, min(worth, documents), quantile)
    return Estimate(value, *ends, units, documents)


def _influence(leaves: Leaves, shares: Shares | None) -> tuple[float, dict[str, float]]:
    """Return a mean over leaf tasks, and what each unit moves it by; those sum to 0."""
    means = {leaf: _leaf_mean(records) for leaf, records in leaves.items()}
    weights = _weights(leaves, shares)
    total = math.fsum(shares[leaf] for leaf in leaves) if shares else len(leaves)
    value = math.fsum(m * (shares[leaf] if shares else 1) for leaf, m in means.items()) / total
    residuals = _by_unit(
        (record.unit, weights[leaf] * (record.total - means[leaf] * record.weight))
        for leaf, records in leaves.items()
        for record in records
    )
    return value, residuals


def _student_spread(residuals: Sequence[float]) -> float:
    """Return half the width of Student's interval of a mean, NaN for one unit."""
    units = len(residuals)
    if units < 2:
        return math.nan
    variance = math.fsum(r * r for r in residuals)
    return student(units - 1) * math.sqrt(variance * units / (units - 1))


def _leaf_mean(records: Sequence[Sample]) -> float:
    return math.fsum(r.total for r in records) / math.fsum(r.weight for r in records)


def _weights(leaves: Leaves, shares: Shares | None) -> dict[str, float]:
    """Return what one unit of weight in a leaf contributes to the number."""
    share = {leaf: shares[leaf] if shares else 1.0 for leaf in leaves}
    total = math.fsum(share.values())
    return {
        leaf: share[leaf] / (math.fsum(r.weight for r in records) * total)
        for leaf, records in leaves.items()
    }


def _by_unit(parts: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Sum values by unit; exactly, so that their order does not matter."""
    sums: dict[str, list[float]] = defaultdict(list)
    for unit, value in parts:
        sums[unit].append(value)
    return {unit: math.fsum(values) for unit, values in sorted(sums.items())}


# ---------------------------------------------------------------- paired tests


@dataclass(frozen=True)
class Contrast:
    """One number less a share of another, on the units both have.

    Attributes:
        value: difference of scores, or of mean losses in nats.
        low: lower end of its 95 % interval.
        high: upper end.
        units: independent units it is paired over; 0 where the two share none.
    """

    value: float
    low: float
    high: float
    units: int


@dataclass(frozen=True)
class Difference(Contrast):
    """One row minus another on the documents both have.

    Attributes:
        p: of scores by the sign-flip test on units (for one task of right-or-wrong samples that
            is McNemar's), of losses by Student's.
    """

    p: float


def difference(
    one: Leaves, other: Leaves, perplexity: bool, shares: Shares | None = None
) -> Difference | None:
    """Return the paired difference, None if the two have no document in common."""
    pairs = _common(one, other)
    if not pairs:
        return None
    mine, theirs = ({leaf: [p[i] for p in same] for leaf, same in pairs.items()} for i in (0, 1))
    found, influence = _contrast(mine, theirs, 1.0, perplexity, shares)
    if perplexity:
        return Difference(**found.__dict__, p=_student_p(found.value, influence))
    weights = _weights(mine, shares)
    parts = _by_unit(
        (a.unit, weights[leaf] * (a.total - b.total))
        for leaf, same in pairs.items()
        for a, b in same
    )
    return Difference(**found.__dict__, p=sign_flip(list(parts.values())))


def contrast(one: Leaves, other: Leaves, share: float, perplexity: bool) -> Contrast:
    """Return one number less `share` times another, of two leaf tasks, such as two lengths.

    Paired over the units that both have (a task has the same documents at every length); where they
    share fewer than two, over everything, as independent. Of perplexities it is the logarithm of
    one less that of `share` times the other.
    """
    units = [{r.unit for records in side.values() for r in records} for side in (one, other)]
    both = units[0] & units[1]
    if len(both) < 2:
        found, _ = _contrast(one, other, share, perplexity, None)
        return Contrast(found.value, found.low, found.high, 0)
    mine, theirs = (
        {leaf: kept for leaf, rs in side.items() if (kept := [r for r in rs if r.unit in both])}
        for side in (one, other)
    )
    return _contrast(mine, theirs, share, perplexity, None)[0]


def _contrast(
    one: Leaves, other: Leaves, share: float, perplexity: bool, shares: Shares | None
) -> tuple[Contrast, list[float]]:
    """Return the contrast, and what each unit moves it by.

    The interval of losses is Student's over units. That of scores is Newcombe's of 1998 (method
    10: Wilson's intervals of both sides and their correlation over units), which does not shrink to
    nothing where every sample agrees.
    """
    (a, ours), (b, theirs) = _influence(one, shares), _influence(other, shares)
    units = sorted(ours.keys() | theirs.keys())
    mine, other_s = ([side.get(unit, 0.0) for unit in units] for side in (ours, theirs))
    if perplexity:
        value = a - b - math.log(share)
        parts = [x - y for x, y in zip(mine, other_s, strict=True)]
        spread = _student_spread(parts)
        return Contrast(value, value - spread, value + spread, len(units)), parts
    value = a - share * b
    parts = [x - share * y for x, y in zip(mine, other_s, strict=True)]
    first, second = estimate(one, False, shares), estimate(other, False, shares)
    shared = max(0.0, correlation(mine, other_s))  # of NaN, too
    reach = (
        (a - first.low, share * (second.high - b)),
        (first.high - a, share * (b - second.low)),
    )
    below, above = (math.sqrt(max(x * x + y * y - 2 * shared * x * y, 0.0)) for x, y in reach)
    return Contrast(value, value - below, value + above, len(units)), parts


def _student_p(value: float, parts: Sequence[float]) -> float:
    """Return the p of a paired difference of losses."""
    if len(parts) < 2:
        return 1.0
    freedom = len(parts) - 1
    error = math.sqrt((freedom + 1) / freedom * math.fsum(x * x for x in parts))
    if error == 0:
        return 1.0 if value == 0 else _SMALLEST
    return student_p(value / error, freedom)


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the linear correlation; NaN where one side does not vary."""
    x, y = fmean(xs), fmean(ys)
    spread = math.sqrt(sum((a - x) ** 2 for a in xs) * sum((b - y) ** 2 for b in ys))
    if spread < 1e-12 * len(xs) ** -2:
        return math.nan
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / spread


def _common(one: Leaves, other: Leaves) -> dict[str, list[tuple[Sample, Sample]]]:
    pairs = {}
    for leaf in one:
        theirs = {record.document: record for record in other.get(leaf, ())}
        same = [(r, theirs[r.document]) for r in one[leaf] if r.document in theirs]
        if same:
            pairs[leaf] = same
    return pairs


def sign_flip(values: Sequence[float]) -> float:
    """Return the two-sided p of a sum being so far from 0 if every value's sign were a coin's.

    All assignments are tried up to 12 values that are not 0; beyond that 9999 drawn ones, always
    the same, so that a report can be repeated.
    """
    import numpy as np

    nonzero = np.array([v for v in values if abs(v) > 1e-15])
    if not len(nonzero):
        return 1.0
    seen = abs(nonzero.sum()) * (1 - 1e-9)  # equal sums differ by rounding
    sums = np.abs(_signs(len(nonzero)) @ nonzero)
    if len(nonzero) <= _EXACT:
        return float((sums >= seen).mean())
    return float((1 + (sums >= seen).sum()) / (1 + len(sums)))


@cache
def _signs(count: int):
    """Return assignments of signs, [assignments, count]."""
    import numpy as np

    if count <= _EXACT:
        bits = np.arange(2**count)[:, None] >> np.arange(count)
        return 1.0 - 2.0 * (bits & 1)
    drawn = np.random.Generator(np.random.PCG64(count)).integers(0, 2, (_DRAWS, count))
    return 1.0 - 2.0 * drawn


def holm(ps: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p of several tests."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted
