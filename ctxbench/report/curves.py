"""The lines of Figures 2 and 3: accuracy over shots, loss over positions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ctxbench.core.protocol import Row
from ctxbench.report.estimates import estimate
from ctxbench.report.numbers import Measure, Numbers
from ctxbench.report.samples import Sample
from ctxbench.report.tables import ordered

_STEP = 2**0.25 - 1  # of a position, to the next point: four points a doubling


@dataclass(frozen=True)
class Curve:
    """One row's line: (x, value, low, high)."""

    row: Row
    points: tuple[tuple[float, float, float, float], ...]


def many_shot(numbers: Numbers) -> list[Curve]:
    """Return accuracy in percent over shots (Figure 2)."""
    columns = sorted(
        (c for c in numbers.study.of_kind("manyshot") if c.shots), key=lambda c: c.shots or 0
    )
    curves = []
    for row in ordered(numbers.study.rows):
        found = [(c, numbers.number(row, Measure("", (c,))).estimate) for c in columns]
        points = tuple(
            (float(c.shots or 0), 100 * e.value, 100 * e.low, 100 * e.high) for c, e in found if e
        )
        curves += [Curve(row, points)] if points else []
    return curves


def by_position(numbers: Numbers) -> list[Curve]:
    """Return loss curves from the longest column of kind `nll` that has positions.

    Neighbouring buckets are taken together, ever more towards the end.
    """
    columns = sorted(numbers.study.of_kind("nll"), key=lambda c: -(c.length or 0))[:1]
    curves = []
    for row in ordered(numbers.study.rows):
        leaves = numbers.leaves(row, Measure("", tuple(columns))) if columns else {}
        records = [record for found in leaves.values() for record in found]
        curves += [Curve(row, _buckets(records, columns[0].length))] if records else []
    return [curve for curve in curves if curve.points]


def _buckets(records: Sequence[Sample], length: int | None) -> tuple:
    count = min(len(record.positions) for record in records)
    size = records[0].bucket or (length or count) / count
    points, first = [], 0
    while first < count:
        last = min(first + max(1, round(_STEP * first)), count)
        parts = [part for record in records if (part := _part(record, first, last)).weight]
        if parts:
            found = estimate({"nll": parts}, perplexity=True)
            middle = (first + last) / 2 * size
            points.append((middle, *_logs(found.value, found.low, found.high)))
        first = last
    return tuple(points)


def _part(record: Sample, first: int, last: int) -> Sample:
    """Return a record's loss in the buckets from `first` to before `last`."""
    total, weight = (math.fsum(b[i] for b in record.positions[first:last]) for i in (0, 1))
    return Sample(record.document, record.unit, total, weight)


def _logs(*values: float) -> tuple[float, ...]:
    return tuple(math.log(value) for value in values)
