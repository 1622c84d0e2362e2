"""Which findings of the paper appear in a study, computed from its cells.

A claim (`claims.py`) has the rows it is about, and tests of the form "the score at this length is
at least this share of the score at that length". A test holds, fails or stays undecided by the
95 % interval of the difference of the two sides (MOVER, Zou and Donner 2008,
https://doi.org/10.1002/sim.3095; for perplexities on the logarithm).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ctxbench.lengths import length_name
from ctxbench.report.claims import CLAIMS, HARD, LOSS, NEEDLE, Claim, Test, is_exact
from ctxbench.report.correlation import panels, scopes
from ctxbench.report.estimates import Estimate
from ctxbench.report.layouts import kind_name
from ctxbench.report.numbers import Measure, Number, Numbers, show, show_interval
from ctxbench.report.study_files import Study
from ctxbench.report.study_plan import CLASSES, Column, Row

APPEARS, PARTLY, NOT, OPEN, ABSENT = (
    "appears",
    "appears in part",
    "does not appear",
    "undecided",
    "not measured",
)


@dataclass(frozen=True)
class Finding:
    """A claim judged: the verdict and the sentences it rests on."""

    name: str
    text: str
    verdict: str
    evidence: tuple[str, ...]


def findings(numbers: Numbers) -> list[Finding]:
    """Return every claim judged, then the comparisons of groups."""
    return [
        *(_judge(claim, numbers) for claim in CLAIMS),
        _approximate(numbers),
        _control(numbers),
        _correlation(numbers),
        _same_order(numbers),
    ]


# ---------------------------------------------------------------------- claims


def _judge(claim: Claim, numbers: Numbers) -> Finding:
    rows = [row for row in numbers.study.rows if claim.rows(row)]
    evidence, verdicts = [], []
    for row in rows:
        judged = [_test(test, row, numbers) for test in claim.tests]
        judged = [found for found in judged if found is not None]
        evidence += [sentence for sentence, _ in judged]
        if judged:
            verdicts.append(_all_of([holds for _, holds in judged]))
    return Finding(claim.name, claim.text, _over_rows(verdicts), tuple(evidence))


def _all_of(parts: Sequence[bool | None]) -> bool | None:
    if False in parts:
        return False
    return None if None in parts else True


def _over_rows(verdicts: Sequence[bool | None]) -> str:
    """Return the verdict over rows: all must agree, else it is in part or undecided."""
    if not verdicts:
        return ABSENT
    if True in verdicts and False in verdicts:
        return PARTLY
    if None in verdicts:
        return PARTLY if True in verdicts else OPEN
    return APPEARS if verdicts[0] else NOT


def _test(test: Test, row: Row, numbers: Numbers) -> tuple[str, bool | None] | None:
    """Return a sentence and whether it holds; None if the study has no such columns."""
    study = numbers.study
    other = numbers.base if test.of == "base" else row
    columns = study.of_kind(*test.kinds)
    here, there = (_column(study, columns, row, at) for at in (test.at, test.of_at))
    if other is None or here is None or there is None:
        return None
    one, two = numbers.number(row, _measure(here)), numbers.number(other, _measure(there))
    name = kind_name(here.kind)
    against = "" if other is row else f"{other.label}'s "
    sentence = (
        f"{row.label}, {name} at {length_name(here.length or 0)}: {_said(one)}; {test.relation} "
        f"{test.share:g} times {against}{_said(two)} at {length_name(there.length or 0)}"
    )
    if one.estimate is None or two.estimate is None:
        return f"{sentence}: undecided, a cell is not there", None
    low, high = _margin(one.estimate, two.estimate, test.share, one.measure.perplexity)
    holds = low >= 0 if test.relation == "at least" else high <= 0
    fails = high < 0 if test.relation == "at least" else low > 0
    word = "yes" if holds else ("no" if fails else "undecided")
    return f"{sentence}: {word}", True if holds else (False if fails else None)


def _measure(column: Column) -> Measure:
    return Measure(length_name(column.length or 0), (column,))


def _said(number: Number) -> str:
    if number.estimate is None:
        return number.state
    perplexity = number.measure.perplexity
    interval = show_interval(number.estimate, perplexity)
    return f"{show(number.estimate.value, perplexity)} [{interval}]"


def _column(study: Study, columns: Sequence[Column], row: Row, at: str) -> Column | None:
    """Return the column of the first family at a length, None where it was not measured."""
    first = [c for c in columns if c.length and c.family == columns[0].family]
    if not first:
        return None
    trained = row.trained_length or 0
    wanted = {
        "window": study.window,
        "twice": 2 * study.window,
        "reference": study.reference_length,
        "trained": trained,
        "beyond": 2 * trained,
        "longest": max(column.length or 0 for column in first),
    }[at]
    return next((column for column in first if column.length == wanted), None)


def _margin(one: Estimate, two: Estimate, share: float, perplexity: bool) -> tuple[float, float]:
    """Return the interval of one - share * two; for perplexities of the logarithms' difference."""
    if perplexity:
        a, a_low, a_high = (math.log(x) for x in (one.value, one.low, one.high))
        b, b_low, b_high = (math.log(share * x) for x in (two.value, two.low, two.high))
    else:
        a, a_low, a_high = one.value, one.low, one.high
        b, b_low, b_high = (share * x for x in (two.value, two.low, two.high))
    middle = a - b
    return (
        middle - math.hypot(a - a_low, b_high - b),
        middle + math.hypot(a_high - a, b - b_low),
    )


# ---------------------------------------------------------------------- groups


def _retrieval(study: Study) -> list[Measure]:
    """Return the needle and the harder retrieval at the reference length."""
    found = []
    for kinds in (NEEDLE, HARD):
        columns = [c for c in study.of_kind(*kinds) if c.length == study.reference_length]
        if columns:
            found.append(_measure(columns[0]))
    return found


def _approximate(numbers: Numbers) -> Finding:
    """Each approximate method against the mean of the fine-tuned exact ones."""
    study = numbers.study
    evidence, verdicts = [], []
    for row in (row for row in study.rows if row.group == "approximate"):
        judged = []
        for measure in _retrieval(study):
            exact = [numbers.number(r, measure).estimate for r in study.rows if is_exact(r)]
            known = [found for found in exact if found]
            mine = numbers.number(row, measure)
            if not known or mine.estimate is None:
                continue
            mean = _mean(known)
            low, high = _margin(mine.estimate, mean, 1.0, False)
            holds = True if high < 0 else (False if low > 0 else None)
            word = {True: "below", False: "above", None: "not told from"}[holds]
            judged.append(holds)
            evidence.append(
                f"{row.label}, {measure.told}: {_said(mine)}; {word} the mean of the fine-tuned "
                f"exact methods, {show(mean.value, False)} "
                f"[{show_interval(mean, False)}]"
            )
        if judged:
            verdicts.append(_all_of(judged))
    text = "Approximate attention underperforms in retrieval"
    return Finding("approximate-below-exact", text, _over_rows(verdicts), tuple(evidence))


def _mean(found: Sequence[Estimate]) -> Estimate:
    """Return the mean of estimates with its interval (MOVER)."""
    value = fmean(e.value for e in found)
    low = math.hypot(*(e.value - e.low for e in found)) / len(found)
    high = math.hypot(*(e.high - e.value for e in found)) / len(found)
    return Estimate(value, value - low, value + high, found[0].units, found[0].documents)


def _control(numbers: Numbers) -> Finding:
    """The same tokens without a method, against each fine-tuned exact method, paired."""
    study = numbers.study
    evidence, verdicts = [], []
    for control in (row for row in study.rows if row.group == "control" and row.trained):
        for row in filter(is_exact, study.rows):
            for measure in _retrieval(study):
                found = numbers.difference(row, control, measure)
                if found is None or row.trained_length != control.trained_length:
                    continue
                holds = True if found.low > 0 else (False if found.high < 0 else None)
                verdicts.append(holds)
                evidence.append(
                    f"{row.label} less {control.label}, {measure.told}: "
                    f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}], "
                    f"p {found.p:.2g}"
                )
    text = "The method does it, not the tokens: the control without one retrieves less"
    return Finding("control-below", text, _over_rows(verdicts), tuple(evidence))


def _correlation(numbers: Numbers) -> Finding:
    evidence, verdicts = [], []
    for panel in panels(numbers, numbers.study.reference_length):
        for scope, rank, linear in scopes(panel.points):
            evidence.append(
                f"{panel.title}, {scope} ({rank.count} rows): rank {rank}, linear {linear}"
            )
            if scope in ("all rows", "within classes") and rank.low == rank.low:
                verdicts.append(True if rank.high < 0 else (False if rank.low > 0 else None))
    text = "Perplexity goes with downstream scores, across and within classes of methods"
    return Finding("perplexity-predicts", text, _over_rows(verdicts), tuple(evidence))


def _same_order(numbers: Numbers) -> Finding:
    """The order of the classes' means, seed by seed."""
    study = numbers.study
    seeds = study.plan.get("seeds") or []
    losses = [c for c in study.of_kind(*LOSS) if c.length == study.reference_length][:1]
    evidence, verdicts = [], []
    for measure in [*(_measure(column) for column in losses), *_retrieval(study)]:
        orders = [_order(numbers, measure, seed) for seed in seeds]
        if len(orders) < 2 or min(map(len, orders)) < 2:
            continue
        same = len({tuple(name for name, _ in order) for order in orders}) == 1
        verdicts.append(same)
        told = "; ".join(
            f"seed {seed}: " + ", ".join(f"{name} {value}" for name, value in order)
            for seed, order in zip(seeds, orders, strict=True)
        )
        evidence.append(f"{measure.told}: {told}")
    text = "The order of the classes is the same on every seed"
    return Finding("same-order-on-seeds", text, _over_rows(verdicts), tuple(evidence))


def _order(numbers: Numbers, measure: Measure, seed: int) -> list[tuple[str, str]]:
    """Return (class, mean as shown) from the best; a row without seeds counts for every seed."""
    means = []
    for group, name in CLASSES.items():
        rows = [r for r in numbers.study.rows if r.group == group and not r.own_budget]
        per_row = [dict(numbers.number(row, measure).seeds) for row in rows]
        values = [by.get(seed, by.get(None)) for by in per_row]
        known = [value for value in values if value is not None]
        if known:
            means.append((name, fmean(known)))
    sign = 1 if measure.perplexity else -1
    means.sort(key=lambda pair: sign * pair[1])
    return [(name, show(value, measure.perplexity)) for name, value in means]
