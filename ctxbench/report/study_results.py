"""A study's results: its protocol, and what each cell's result files hold.

Everything a report says comes from here. A cell without `cell.json` is missing. Nothing read here
depends on dates, on the machine or on the order in which cells were finished.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ctxbench.core.protocol import Column, Protocol, Row, cell_folder, read_note
from ctxbench.report.archive import NAME
from ctxbench.report.labels import kind_name
from ctxbench.report.old_samples import divisor
from ctxbench.report.result_files import ResultFolder
from ctxbench.report.samples import Sample, TaskSamples, read_leaves
from ctxbench.report.study_source import find_study

LEFT_OUT = "left out"


@dataclass(frozen=True)
class Cell:
    """One row under one seed in one column.

    Attributes:
        status: `done`, `failed`, `missing`; `incomplete`: done, but without samples of some leaf
            tasks; `left out`: the study measures this row in other columns.
        leaves: samples by leaf task.
    """

    row: Row
    seed: int | None
    column: Column
    status: str
    reason: str | None
    command: str | None
    leaves: dict[str, tuple[Sample, ...]] = field(hash=False)


@dataclass(frozen=True)
class StudyResults:
    """A study, read.

    Attributes:
        protocol: its rows as their models resolved them.
        trainings: text of each train.yaml, by ROW/seed-K.
        leaf_tasks: of each column: all that any of its cells has or should have.
        untrained: names of rows whose method needs training and had none.
    """

    protocol: Protocol
    trainings: dict[str, str]
    cells: dict[tuple[str, int | None, str], Cell]
    leaf_tasks: dict[str, tuple[str, ...]]
    untrained: frozenset[str] = frozenset()

    @property
    def rows(self) -> tuple[Row, ...]:
        """The protocol's rows."""
        return self.protocol.rows

    @property
    def columns(self) -> tuple[Column, ...]:
        """The protocol's columns."""
        return self.protocol.columns

    @property
    def window(self) -> int:
        """The base model's own window, tokens."""
        return self.protocol.window

    @cached_property
    def reference_length(self) -> int:
        """The length of the common budget, where methods are compared; else the window."""
        trained = [row.trained_length for row in self.rows if row.trained_length]
        length = self.protocol.budget.get("length")
        return length or (max(set(trained), key=trained.count) if trained else self.window)

    def of_kind(self, *kinds: str) -> tuple[Column, ...]:
        """Return the columns of the first of `kinds` (`a+b`: of both) that the study has."""
        for kind in kinds:
            members = kind.split("+")
            if found := tuple(column for column in self.columns if column.kind in members):
                return found
        return ()

    def row(self, name: str) -> Row:
        """Return a row by its name."""
        return next(row for row in self.rows if row.name == name)

    def seeds(self, row: Row, column: Column) -> tuple[Cell, ...]:
        """Return the cells of a row in a column, one per seed."""
        return tuple(self.cells[row.name, seed, column.name] for seed in row.seeds)

    def training(self, row: Row) -> dict[str, Any]:
        """Return how a row was trained: as its run noted it, else the common budget."""
        if not row.trained:
            return {}
        found = [name for name in self.trainings if name.rpartition("/")[0] == row.name]
        if not found:
            return {} if row.own_budget else self.protocol.budget
        import yaml

        return yaml.safe_load(self.trainings[min(found)]) or {}

    @cached_property
    def planned(self) -> tuple[Cell, ...]:
        """The cells that the study is to measure, in the order of study.json."""
        return tuple(cell for cell in self.cells.values() if cell.status != LEFT_OUT)

    @cached_property
    def unfinished(self) -> tuple[Cell, ...]:
        """Failed, missing and incomplete cells, in the order of study.json."""
        return tuple(cell for cell in self.planned if cell.status != "done")

    @cached_property
    def drawn_seeds(self) -> tuple[int, ...]:
        """The seeds of the study's trained rows, each once."""
        seeds = (seed for row in self.rows for seed in row.seeds if seed is not None)
        return tuple(dict.fromkeys(seeds))

    def of_seed(self, seed: int) -> "StudyResults":
        """Return the study as if it had been run with one seed; rows that draw nothing stay."""
        kept = [replace(r, seeds=tuple({seed, None} & {*r.seeds})) for r in self.rows]
        cells = {key: cell for key, cell in self.cells.items() if key[1] in (seed, None)}
        protocol = replace(self.protocol, rows=tuple(row for row in kept if row.seeds))
        return replace(self, protocol=protocol, cells=cells)


def load_study(path: Path) -> StudyResults:
    """Read a study.

    Args:
        path: its folder, or its archive.

    Raises:
        FileNotFoundError: there is no study.
        ValueError: study.json, a cell.json or the archive is damaged.
    """
    source = find_study(path)
    if source is None:
        raise FileNotFoundError(
            f"{path} holds no study.json and no {NAME} of a study. Give the folder that `ctxbench "
            "study NAME --output FOLDER` wrote; for loose result files there is `ctxbench report "
            "heatmap`."
        )
    protocol = source.protocol()
    columns, root = {column.name: column for column in protocol.columns}, source.root
    measured = {
        folder.path.relative_to(root).as_posix(): _measured(folder, column, root)
        for folder in source.folders
        if (column := columns.get(folder.path.name))
    }
    rows = tuple(_resolved(row, measured) for row in protocol.rows)
    said = {place.split("/")[1]: found.model or {} for place, found in measured.items()}
    untrained = frozenset(name for name, model in said.items() if model.get("untrained"))
    measured = _in_shares(measured, columns)
    cells = {
        (row.name, seed, column.name): _cell(row, seed, column, measured)
        for row in rows
        for column in protocol.columns
        for seed in row.seeds
    }
    leaf_tasks = _leaf_tasks(cells.values())
    cells = _without_gaps(cells, leaf_tasks)
    protocol = replace(protocol, rows=rows)
    return StudyResults(protocol, source.trainings, cells, leaf_tasks, untrained)


# ---------------------------------------------------------------------- a cell


@dataclass(frozen=True)
class _Measured:
    """What a cell's folder holds; `model` is what the measured model said of itself."""

    status: str = "missing"
    reason: str | None = "not run"
    command: str | None = None
    leaves: dict[str, TaskSamples] = field(default_factory=dict)
    model: dict[str, Any] | None = None


def _measured(folder: ResultFolder, column: Column, root: Path) -> _Measured:
    if folder.cell is None:
        return _Measured()
    note = read_note(folder.cell, f"{folder.path}/cell.json")
    status, reason = note.status, note.reason
    leaves: dict[str, TaskSamples] = {}
    model = None
    if status == "done":
        try:
            run = folder.newest_run()
            model = (run.content.get("config") or {}).get("ctxbench")
            leaves = read_leaves(run, column)
            if (limit := (run.content.get("config") or {}).get("limit")) is not None:
                status, leaves = "incomplete", {}
                reason = f"measured with --limit {limit:g}, not whole"
        except (ValueError, FileNotFoundError) as damage:  # said without this machine's paths
            said = str(damage).replace(f"{root}/", "").replace(str(root), "the study folder")
            status, reason = "failed", said
    return _Measured(status, reason, note.command, leaves, model)


def _in_shares(measured: dict[str, _Measured], columns: dict[str, Column]) -> dict[str, _Measured]:
    """Bring scores of an unknown scale to 0 to 1, those of a kind as a whole."""
    largest: dict[str, float] = defaultdict(float)
    column_of = {place: columns[place.rpartition("/")[2]] for place in measured}
    for place, found in measured.items():
        if (column := column_of[place]).higher_is_better:
            unknown = [leaf for leaf in found.leaves.values() if not leaf.scaled]
            totals = (sample.total for leaf in unknown for sample in leaf.samples)
            largest[column.kind] = max(largest[column.kind], *totals, 0.0)
    made = {}
    for place, found in measured.items():
        by = divisor(largest[column_of[place].kind])
        leaves = {task: leaf.divided(by) for task, leaf in found.leaves.items()}
        made[place] = replace(found, leaves=leaves)
    return made


def _resolved(row: Row, measured: dict[str, _Measured]) -> Row:
    """Return a planned row with what its model said of itself in the first cell that is done.

    A row may name a preset, or leave method and options to a checkpoint.
    """
    mine = (found.model for place, found in measured.items() if place.split("/")[1] == row.name)
    model = next(filter(None, mine), None)
    if model is None:
        return row
    return replace(
        row,
        method=model.get("method") or row.method,
        options=model.get("options") or {},
        trained_length=model.get("trained_length", row.trained_length),
    )


def _cell(row: Row, seed: int | None, column: Column, measured: dict[str, _Measured]) -> Cell:
    if not row.has(column):
        only = f"measured in {', '.join(map(kind_name, row.kinds or ()))} only"
        return Cell(row, seed, column, LEFT_OUT, only, None, {})
    found = measured.get(cell_folder(row.name, seed, column.name), _Measured())
    leaves = {task: leaf.samples for task, leaf in found.leaves.items()}
    return Cell(row, seed, column, found.status, found.reason, found.command, leaves)


def _leaf_tasks(cells: Iterable[Cell]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for cell in cells:
        found[cell.column.name] |= dict.fromkeys(cell.leaves)
    return {name: tuple(leaves) for name, leaves in found.items()}


def _without_gaps(cells: dict[Any, Cell], expected: dict[str, tuple[str, ...]]) -> dict[Any, Cell]:
    """Mark cells that lack a leaf task of their column: no mean may pass over it in silence."""
    made = {}
    for key, cell in cells.items():
        absent = [leaf for leaf in expected[cell.column.name] if not cell.leaves.get(leaf)]
        made[key] = cell
        if cell.status == "done" and absent:
            made[key] = replace(
                cell,
                status="incomplete",
                reason=f"no samples of {', '.join(absent)}",
                leaves={leaf: records for leaf, records in cell.leaves.items() if records},
            )
    return made
