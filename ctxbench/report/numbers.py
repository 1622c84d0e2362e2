"""From a study to its numbers: measures, marks of the best, effective lengths.

A measure is something a row can have a number of: a column, some leaf tasks of a column, a stretch
of positions, or the mean over several columns. Tables, figures and findings all read their numbers
here, and every comparison of two of them is paired.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from ctxbench.core.lengths import length_name
from ctxbench.core.protocol import Column, Row
from ctxbench.report.estimates import (
    LEVEL,
    Contrast,
    Difference,
    Estimate,
    contrast,
    difference,
    estimate,
    holm,
    over_seeds,
)
from ctxbench.report.labels import kind_name
from ctxbench.report.samples import Sample, bucket_size
from ctxbench.report.study_results import LEFT_OUT, Cell, StudyResults

EFFECTIVE_SHARE = 0.85
"""Of the base model's score at its own window, which a length must reach to be effective.

RULER (https://arxiv.org/abs/2404.06654) asks for Llama-2-7B's score at its 4k window.
"""
_IN_THE_WAY = ("failed", "missing", "incomplete", LEFT_OUT)


@dataclass(frozen=True)
class Measure:
    """What a row has a number of.

    Attributes:
        label: in a table's head.
        columns: their mean over leaf tasks is the number.
        group: above it, where a table has several.
        leaves: only these leaf tasks.
        shares: how much each of them weighs; all the same without.
        span: only these positions (first, last + 1), of samples that have losses by position.
        summary: whether it sums up other measures of its table.
    """

    label: str
    columns: tuple[Column, ...]
    group: str = ""
    leaves: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    span: tuple[int, int] | None = None
    summary: bool = False

    @property
    def kind(self) -> str:
        """The kind of its columns."""
        return self.columns[0].kind

    @property
    def description(self) -> str:
        """What it is, in words: kind, leaf task, length or shots."""
        if self.span:
            return f"Perplexity at positions {self.label}"
        name = self.label if self.leaves else kind_name(self.kind)
        shots = {column.shots for column in self.columns if column.shots}
        if len(shots) == 1:
            return f"{name}, {shots.pop()} shots"
        if self.length:
            return f"{name} at {length_name(self.length)}"
        return f"{name}, mean over {len(self.columns)} columns"

    @property
    def weights(self) -> dict[str, float] | None:
        """Its shares by leaf task; None: all weigh the same."""
        return dict(zip(self.leaves, self.shares, strict=True)) if self.shares else None

    @property
    def perplexity(self) -> bool:
        """Whether it is exp of a mean loss, of which less is better."""
        return not self.columns[0].higher_is_better

    @property
    def length(self) -> int | None:
        """Its length if it has one."""
        lengths = {column.length for column in self.columns}
        return lengths.pop() if len(lengths) == 1 else None


@dataclass(frozen=True)
class Number:
    """A row's number of a measure, or why there is none.

    Attributes:
        estimate: over the seeds that are done in all columns.
        seeds: number by seed.
        cells: everything it was made from.
        state: `done`, or that of the cells that are in the way.
        mark: `best` if it is better than every other row's; `tied` if no test tells it from the
            best one.
        rivals: labels of the rows it is not told from, where it leads or is tied.
    """

    row: Row
    measure: Measure
    estimate: Estimate | None
    seeds: tuple[tuple[int | None, float], ...]
    cells: tuple[Cell, ...]
    state: str
    mark: str = ""
    rivals: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """What is failed, missing or incomplete, and why."""
        return tuple(problem(cell) for cell in self.cells if cell.status not in ("done", LEFT_OUT))


def problem(cell: Cell) -> str:
    """Say in one line what is wrong with a cell."""
    seed = "" if cell.seed is None else f", seed {cell.seed}"
    reason = f": {cell.reason}" if cell.reason else ""
    return f"{cell.row.label}{seed}, {cell.column.name}: {cell.status}{reason}"


@dataclass(frozen=True)
class EffectiveLength:
    """How far a row goes in one kind of column.

    Attributes:
        value: longest length from the window on up to which the score stays at the threshold; None:
            not even there.
        low: the same for the lower ends of the paired intervals against the base model.
        threshold: score, 0 to 1.
        reached: whether `value` is the longest length measured, so that it may be longer.
    """

    value: int | None
    low: int | None
    threshold: float
    reached: bool


@dataclass(frozen=True)
class Numbers:
    """The numbers of a study."""

    study: StudyResults
    _memory: dict = field(default_factory=dict, hash=False, compare=False)

    def number(self, row: Row, measure: Measure) -> Number:
        """Return a row's number of a measure."""
        return self._once(("number", row.name, measure), lambda: self._number(row, measure))

    def _once(self, key, make):
        if key not in self._memory:
            self._memory[key] = make()
        return self._memory[key]

    def _number(self, row: Row, measure: Measure) -> Number:
        by_seed = self._by_seed(row, measure)
        cells = tuple(c for column in measure.columns for c in self.study.seeds(row, column))
        if not by_seed:
            states = {cell.status for cell in cells}
            state = next((s for s in _IN_THE_WAY if s in states), "missing")
            return Number(row, measure, None, (), cells, state)
        perplexity, weights = measure.perplexity, measure.weights
        seeds = tuple(
            (seed, estimate(leaves, perplexity, weights).value) for seed, leaves in by_seed.items()
        )
        pooled = estimate(self.leaves(row, measure), perplexity, weights)
        return Number(row, measure, pooled, seeds, cells, "done")

    def _by_seed(self, row: Row, measure: Measure) -> dict[int | None, dict]:
        """Return samples by leaf task of every seed that has all leaf tasks of all columns."""
        found = {}
        names = [column.name for column in measure.columns]
        wanted = measure.leaves or [leaf for n in names for leaf in self.study.leaf_tasks[n]]
        for seed in row.seeds:
            cells = [self.study.cells[row.name, seed, name] for name in names]
            leaves = {
                leaf: _within(records, measure.span)
                for cell in cells
                for leaf, records in cell.leaves.items()
                if leaf in wanted
            }
            if wanted and all(leaves.get(leaf) for leaf in wanted) and all(c.leaves for c in cells):
                found[seed] = leaves
        return found

    def of_cell(self, cell: Cell) -> Estimate | None:
        """Return the number of one cell, None if it is not done."""
        done = cell.status == "done"
        return estimate(cell.leaves, not cell.column.higher_is_better) if done else None

    def leaves(self, row: Row, measure: Measure) -> dict:
        """Return a row's samples by leaf task, averaged over seeds; empty if there are none."""
        return self._once(
            ("leaves", row.name, measure),
            lambda: over_seeds(self._by_seed(row, measure).values()),
        )

    def mean_leaves(self, rows: Sequence[Row], measure: Measure) -> dict:
        """Return samples by leaf task averaged over rows, as far as all that are done have them."""
        return over_seeds(filter(None, (self.leaves(row, measure) for row in rows)))

    # ------------------------------------------------------------- comparisons

    def difference(self, one: Row, other: Row, measure: Measure) -> Difference | None:
        """Return the paired difference of two rows, None if they share no document."""
        return self._once(
            ("difference", one.name, other.name, measure),
            lambda: difference(
                self.leaves(one, measure),
                self.leaves(other, measure),
                measure.perplexity,
                measure.weights,
            ),
        )

    def contrast(
        self, row: Row, measure: Measure, other: Row, of: Measure, share: float
    ) -> Contrast | None:
        """Return a row's number less a share of another's, paired; None where one has none."""
        one, two = self.leaves(row, measure), self.leaves(other, of)
        return contrast(one, two, share, measure.perplexity) if one and two else None

    def marked(self, rows: Sequence[Row], measure: Measure) -> dict[str, Number]:
        """Return the rows' numbers, the best marked.

        The best is the row that beats every other: in a paired test, with Holm's correction for
        the number of rivals, and with each of its seeds above each of theirs. Rows with a schedule
        of their own do not compete.
        """
        numbers = {row.name: self.number(row, measure) for row in rows}
        done = [n for n in numbers.values() if n.estimate and not n.row.own_budget]
        if len(done) < 2:
            return numbers
        sign = -1 if measure.perplexity else 1
        lead = max(done, key=lambda n: sign * n.estimate.value if n.estimate else 0)
        rivals = [n for n in done if n is not lead]
        adjusted = holm([self._p(lead.row, rival.row, measure) for rival in rivals])
        tied = [
            rival
            for rival, p in zip(rivals, adjusted, strict=True)
            if p > LEVEL or not _every_seed(lead, rival, sign)
        ]
        names = tuple(rival.row.label for rival in tied)
        numbers[lead.row.name] = _with_mark(lead, "tied" if tied else "best", names)
        for rival in tied:
            numbers[rival.row.name] = _with_mark(rival, "tied", (lead.row.label,))
        return numbers

    def _p(self, one: Row, other: Row, measure: Measure) -> float:
        found = self.difference(one, other, measure)
        return found.p if found else 1.0

    # -------------------------------------------------------- effective length

    def effective_length(self, row: Row, columns: Sequence[Column]) -> EffectiveLength | None:
        """Return how far a row goes; None where the base or the row has no scores."""
        by_length = sorted(
            (column for column in columns if column.length), key=lambda c: c.length or 0
        )
        inside = [c for c in by_length if (c.length or 0) <= self.study.window]
        base = self.base
        if not inside or base is None:
            return None
        at_window = Measure("", (inside[-1],))
        threshold = self.number(base, at_window).estimate
        asked = by_length[len(inside) - 1 :]  # from the window on, as RULER
        numbers = [self.number(row, Measure("", (column,))) for column in asked]
        if threshold is None or numbers[0].estimate is None:
            return None
        least = EFFECTIVE_SHARE * threshold.value
        value = _up_to(asked, [bool(n.estimate and n.estimate.value >= least) for n in numbers])
        low = _up_to(asked, [self._surely(row, n.measure, base, at_window) for n in numbers])
        return EffectiveLength(value, low, least, value == by_length[-1].length)

    def _surely(self, row: Row, measure: Measure, base: Row, at_window: Measure) -> bool:
        """Return whether the lower end, too, reaches the base's share; its own it does."""
        if (row, measure) == (base, at_window):
            return True
        found = self.contrast(row, measure, base, at_window, EFFECTIVE_SHARE)
        return found is not None and found.low >= 0

    @property
    def base(self) -> Row | None:
        """The base model as it is: no method, no training."""
        rows = (r for r in self.study.rows if r.group == "frozen" and r.method == "none")
        return next(rows, None)


def _within(records: Sequence[Sample], span: tuple[int, int] | None) -> Sequence[Sample]:
    """Return samples as if only positions of a span had been scored."""
    if span is None:
        return records
    found = []
    for record in records:
        size = bucket_size(record)
        kept = record.positions[-(-span[0] // size) : -(-span[1] // size)]
        total, weight = (math.fsum(part[i] for part in kept) for i in (0, 1))
        if weight:
            found.append(replace(record, total=total, weight=weight, positions=kept))
    return found


def _up_to(columns: Sequence[Column], holds: Sequence[bool]) -> int | None:
    """Return the length of the last column before the first that does not hold."""
    count = [*holds, False].index(False)
    return columns[count - 1].length if count else None


def _with_mark(number: Number, mark: str, rivals: tuple[str, ...]) -> Number:
    return replace(number, mark=mark, rivals=rivals)


def _every_seed(lead: Number, rival: Number, sign: int) -> bool:
    """Return whether each seed of one is better than each of the other."""
    return all(sign * a > sign * b for _, a in lead.seeds for _, b in rival.seeds)


@cache
def _digits(value: float) -> int:
    return 2 if value < 100 else (1 if value < 1000 else 0)


def show(value: float, perplexity: bool) -> str:
    """Return a number as tables print it: a perplexity, or a score in percent."""
    if value != value:
        return "?"
    return f"{value:.{_digits(value)}f}" if perplexity else f"{100 * value:.1f}"


def show_interval(found: Estimate, perplexity: bool) -> str:
    """Return the interval as tables print it; empty where one unit gives none."""
    if found.low != found.low:
        return ""
    return f"{show(found.low, perplexity)}\u2013{show(found.high, perplexity)}"
