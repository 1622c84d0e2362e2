"""Is the order of the classes of methods the same on every seed?"""

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

from ctxbench.core.protocol import CLASSES, Row
from ctxbench.report.estimates import difference
from ctxbench.report.numbers import Measure, Numbers, show
from ctxbench.report.verdicts import ABSENT, FAILS, HOLDS, Finding

_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}


def same_order(numbers: Numbers, measures: Sequence[Measure]) -> Finding:
    """Judge whether the classes' means come in the same order on every seed, strictly.

    Of two classes that change places their paired difference over all seeds is told, too: an order
    of classes that are not told apart is chance.
    """
    seeds = numbers.study.drawn_seeds
    evidence, verdicts = [], []
    for measure in measures:
        groups, without = _groups(numbers, measure, seeds)
        if len(seeds) < 2 or len(groups) < 2:
            continue
        orders = [_order(numbers, groups, measure, seed) for seed in seeds]
        same = all(order == orders[0] for order in orders)
        verdicts.append(same)
        by_seed = "; ".join(
            f"seed {seed}: "
            + ", ".join(f"{CLASSES[g]} {_mean(numbers, groups[g], measure, seed)}" for g in order)
            for seed, order in zip(seeds, orders, strict=True)
        )
        moved = "".join(
            f"; {_apart(numbers, groups, measure, one, other)}"
            for one, other in combinations(orders[0], 2)
            if any(order.index(one) > order.index(other) for order in orders)
        )
        left = f"; without {', '.join(without)}, not on every seed" if without else ""
        evidence.append(
            f"{measure.description}: {HOLDS if same else FAILS}; {by_seed}{moved}{left}"
        )
    verdict = (HOLDS if all(verdicts) else FAILS) if verdicts else ABSENT
    count = _COUNTS.get(max(len(seeds), 2), str(len(seeds)))
    text = f"The order of the groups is the same on {count} seeds"
    return Finding("same-order-on-seeds", text, verdict, evidence=tuple(evidence))


def _groups(
    numbers: Numbers, measure: Measure, seeds: Sequence[int]
) -> tuple[dict[str, list[Row]], list[str]]:
    """Return the rows of each class that have a number on every seed, and the others' labels."""
    groups: dict[str, list[Row]] = {}
    without = []
    for row in numbers.study.rows:
        done = {seed for seed, _ in numbers.number(row, measure).seeds}
        if row.own_budget or not done:
            continue
        if None in done or done >= set(seeds):
            groups.setdefault(row.group, []).append(row)
        else:
            without.append(row.label)
    return groups, without


def _order(numbers: Numbers, groups: dict[str, list[Row]], measure: Measure, seed: int):
    """Return the classes from the best."""
    sign = 1 if measure.perplexity else -1
    means = {group: _value(numbers, rows, measure, seed) for group, rows in groups.items()}
    return sorted(groups, key=lambda group: (sign * means[group], group))


def _value(numbers: Numbers, rows: Sequence[Row], measure: Measure, seed: int) -> float:
    """Return the mean over rows, of perplexities over their losses."""
    by_row = [dict(numbers.number(row, measure).seeds) for row in rows]
    values = [by.get(seed, by.get(None, math.nan)) for by in by_row]
    if measure.perplexity:
        return math.exp(fmean(math.log(value) for value in values))
    return fmean(values)


def _mean(numbers: Numbers, rows: Sequence[Row], measure: Measure, seed: int) -> str:
    return show(_value(numbers, rows, measure, seed), measure.perplexity)


def _apart(
    numbers: Numbers, groups: dict[str, list[Row]], measure: Measure, one: str, other: str
) -> str:
    """Say how far two classes that change places are apart, over all seeds."""
    first, second = (numbers.mean_leaves(groups[group], measure) for group in (one, other))
    found = difference(first, second, measure.perplexity)
    names = f"{CLASSES[one]} and {CLASSES[other]} change places"
    if found is None:
        return names
    unit = "nats" if measure.perplexity else "points"
    scale = 1 if measure.perplexity else 100
    ends = f"{scale * found.low:+.2f}, {scale * found.high:+.2f}"
    verdict = "told apart" if found.low > 0 or found.high < 0 else "not told apart"
    return f"{names}: {scale * found.value:+.2f} [{ends}] {unit} over all seeds, {verdict}"
