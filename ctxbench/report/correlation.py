"""Does perplexity predict what a model can do? Correlations with intervals (Figure 4).

Rank and linear correlation over rows of a study, across all of them and within classes of methods:
the paper finds a relation, others since do not, and a few collapsed models can make one.
The linear one takes the logarithm of perplexity, the loss, so that a collapsed model does not
decide it alone. Intervals: Fisher's z for the linear one, Bonett and Wright 2000
(https://doi.org/10.1007/BF02294183) for ranks; none below five rows.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ctxbench.core.lengths import length_name
from ctxbench.core.protocol import CLASSES, Column
from ctxbench.report.estimates import correlation
from ctxbench.report.labels import kind_name
from ctxbench.report.numbers import Measure, Numbers
from ctxbench.report.tables import Entry, Line, Table

FEWEST = 5  # rows; below, an interval would say nothing
_Z = 1.959964


@dataclass(frozen=True)
class Point:
    """One row: perplexity against a score."""

    label: str
    group: str
    perplexity: float
    score: float
    perplexity_ends: tuple[float, float]
    score_ends: tuple[float, float]


@dataclass(frozen=True)
class Correlation:
    """A correlation over `count` rows with its interval; NaN where it cannot be had."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if self.value != self.value:
            return "none: one side does not vary"
        interval = "too few rows for an interval"
        if self.low == self.low:
            interval = f"{self.low:+.2f}, {self.high:+.2f}"
        return f"{self.value:+.2f} [{interval}]".replace("-", "\u2212")


@dataclass(frozen=True)
class Panel:
    """One downstream measure against perplexity at one length."""

    title: str
    length: int
    points: tuple[Point, ...]


def panels(numbers: Numbers, length: int) -> list[Panel]:
    """Return the panels of Figure 4 at a length: needle, LongBench, RULER or their stand-ins."""
    study = numbers.study
    perplexity = _at(study.of_kind("perplexity"), length)
    if not perplexity:
        return []
    downstream = (
        study.of_kind("needle"),
        study.of_kind("longbench", "manyshot"),
        _at(study.of_kind("ruler", "multiquery"), length),
    )
    found = []
    for columns in downstream:
        if columns:
            title = kind_name(columns[0].kind)
            points = _points(numbers, Measure("", perplexity[:1]), Measure("", columns))
            found.append(Panel(title, length, points))
    return found


def _at(columns: Sequence[Column], length: int) -> tuple[Column, ...]:
    return tuple(column for column in columns if column.length == length)


def _points(numbers: Numbers, perplexity: Measure, score: Measure) -> tuple[Point, ...]:
    found = []
    for row in numbers.study.rows:
        x, y = (numbers.number(row, measure).estimate for measure in (perplexity, score))
        if x and y:
            ends = (x.low, x.high), (y.low, y.high)
            found.append(Point(row.label, row.group, x.value, y.value, *ends))
    return tuple(found)


def scopes(points: Sequence[Point]) -> list[tuple[str, Correlation, Correlation]]:
    """Return (rows meant, rank correlation, linear correlation): all, within classes, each class.

    Within classes: every row less its class's mean (of ranks, of losses, of scores).
    """
    by_class: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        by_class[point.group].append(point)
    found = [("all rows", *_both(points)), ("within classes", *_within(list(by_class.values())))]
    for group, name in CLASSES.items():
        if len(by_class[group]) >= FEWEST:
            found.append((name, *_both(by_class[group])))
    return found


def _both(points: Sequence[Point]) -> tuple[Correlation, Correlation]:
    losses = [math.log(point.perplexity) for point in points]
    scores = [point.score for point in points]
    return (
        _with_interval(correlation(ranks(losses), ranks(scores)), len(points), rank=True),
        _with_interval(correlation(losses, scores), len(points), rank=False),
    )


def _within(classes: Sequence[Sequence[Point]]) -> tuple[Correlation, Correlation]:
    losses = [[math.log(point.perplexity) for point in points] for points in classes]
    scores = [[point.score for point in points] for points in classes]
    worth = sum(map(len, classes)) - len(classes) + 1
    count = sum(len(points) for points in classes if len(points) > 1)
    found = []
    for transform, rank in ((ranks, True), (list, False)):
        xs, ys = (
            [value - fmean(part) for part in map(transform, parts) for value in part]
            for parts in (losses, scores)
        )
        made = _with_interval(correlation(xs, ys), worth, rank)
        found.append(Correlation(made.value, made.low, made.high, count))
    return found[0], found[1]


def correlation_table(found: Sequence[Panel], length: int) -> Table:
    """Return the correlations at a length as a table."""
    lines = []
    for panel in found:
        for scope, rank, linear in scopes(panel.points):
            entries = [Entry(str(rank.count), sort=rank.count), *map(_entry, (rank, linear))]
            lines.append(Line(scope, panel.title, tuple(entries)))
    name = length_name(length)
    return Table(
        f"correlation-{name}",
        f"Perplexity against downstream scores at {name} tokens",
        "Less than 0: lower perplexity goes with higher scores. Linear: of the loss, the logarithm "
        "of perplexity. Within classes: each row less the mean of its class.",
        (),
        (("", "rows"), ("", "rank"), ("", "linear")),
        tuple(lines),
        (),
        length,
    )


def _entry(found: Correlation) -> Entry:
    text, _, interval = str(found).partition(" [")
    return Entry(text, interval.rstrip("]"), None if found.value != found.value else found.value)


def ranks(values: Sequence[float]) -> list[float]:
    """Return ranks from 1; equal values share their mean rank."""
    order = sorted(values)
    return [order.index(value) + (order.count(value) + 1) / 2 for value in values]


def _with_interval(value: float, worth: int, rank: bool) -> Correlation:
    """Return a correlation with its interval; `worth` is the number of rows less means removed."""
    if worth < FEWEST or value != value:
        return Correlation(value, math.nan, math.nan, worth)
    inside = max(-0.999999, min(0.999999, value))
    error = math.sqrt((1 + inside**2 / 2 if rank else 1.0) / (worth - 3))
    low, high = (math.tanh(math.atanh(inside) + side * _Z * error) for side in (-1, 1))
    return Correlation(value, low, high, worth)
