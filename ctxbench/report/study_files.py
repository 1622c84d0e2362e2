"""A study folder: what was planned, and what each cell's result files hold.

    DIR/study.json                        rows, columns, model, budget, seeds
    DIR/cells/ROW/seed-K/COLUMN/          cell.json, results_*.json, samples_*.jsonl

Everything a report says comes from here. A cell without `cell.json` is missing. Nothing read here
depends on dates, on the machine or on the order in which cells were finished.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ctxbench.report.records import Record, read_leaves
from ctxbench.report.result_files import read_run
from ctxbench.report.study_plan import Column, Row, kind_name, read_column, read_row

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
    leaves: dict[str, tuple[Record, ...]] = field(hash=False)


@dataclass(frozen=True)
class Study:
    """A study folder, read.

    Attributes:
        leaf_tasks: of each column: all that any of its cells has or should have.
    """

    folder: Path
    plan: dict[str, Any] = field(hash=False)
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    cells: dict[tuple[str, int | None, str], Cell] = field(hash=False)
    leaf_tasks: dict[str, tuple[str, ...]] = field(hash=False)

    @property
    def window(self) -> int:
        """The base model's own window, tokens."""
        return self.plan["window"]

    @cached_property
    def reference_length(self) -> int:
        """The length of the common budget, where methods are compared; else the window."""
        trained = [row.trained_length for row in self.rows if row.trained_length]
        length = (self.plan.get("budget") or {}).get("length")
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
        files = sorted((self.folder / "train" / row.name).glob("seed-*/train.yaml"))
        if not files:
            return {} if row.own_budget else self.plan.get("budget") or {}
        import yaml

        return yaml.safe_load(files[0].read_text(encoding="utf-8")) or {}

    @cached_property
    def planned(self) -> tuple[Cell, ...]:
        """The cells that the study is to measure, in the order of the plan."""
        return tuple(cell for cell in self.cells.values() if cell.status != LEFT_OUT)

    @cached_property
    def unfinished(self) -> tuple[Cell, ...]:
        """Failed, missing and incomplete cells, in the order of the plan."""
        return tuple(cell for cell in self.planned if cell.status != "done")

    @cached_property
    def drawn_seeds(self) -> tuple[int, ...]:
        """The seeds of the study's trained rows, each once."""
        seeds = (seed for row in self.rows for seed in row.seeds if seed is not None)
        return tuple(dict.fromkeys(seeds))

    def of_seed(self, seed: int) -> "Study":
        """Return the study as if it had been run with one seed; rows that draw nothing stay."""
        kept = [replace(r, seeds=tuple({seed, None} & {*r.seeds})) for r in self.rows]
        cells = {key: cell for key, cell in self.cells.items() if key[1] in (seed, None)}
        rows = tuple(row for row in kept if row.seeds)
        return Study(self.folder, self.plan, rows, self.columns, cells, self.leaf_tasks)


def load_study(folder: Path) -> Study:
    """Read a study folder.

    Raises:
        FileNotFoundError: there is no study.json.
        ValueError: study.json or a result file is damaged.
    """
    file = folder / "study.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no study.json. Give the folder that `ctxbench study NAME --output "
            "FOLDER` wrote; for loose result files there is `ctxbench report heatmap`."
        )
    try:
        plan = json.loads(file.read_text(encoding="utf-8"))
        rows = tuple(read_row(_resolved(folder, row)) for row in plan["rows"])
        columns = tuple(read_column(column) for column in plan["columns"])
        int(plan["window"])
    except (ValueError, KeyError, TypeError) as damage:
        raise ValueError(
            f"{file} is not the plan of a study ({type(damage).__name__}: {damage}). Run `ctxbench "
            "study` again with this folder as --output; finished cells stay."
        ) from damage
    cells = {
        (row.name, seed, column.name): _cell(folder, row, seed, column)
        for row in rows
        for column in columns
        for seed in row.seeds
    }
    leaf_tasks = _leaf_tasks(cells.values())
    cells = _to_unit(_without_gaps(cells, leaf_tasks))
    return Study(folder, plan, rows, columns, cells, leaf_tasks)


def _resolved(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Return a planned row with what its model said of itself in the first cell that is done.

    A plan may name a preset, or leave method and options to a checkpoint.
    """
    for file in sorted((folder / "cells" / str(row["name"])).glob("*/*/results_*.json")):
        try:
            noted = read_run(file).content["config"]["ctxbench"]
            trained = noted["trained_length"]
        except (ValueError, KeyError, TypeError):
            continue  # damaged, and said so where the cell is read; or not a model of ours
        known = {"method": noted["method"], "options": noted["options"]}
        return {**row, **known, "trained": trained is not None, "trained_length": trained}
    return row


# ---------------------------------------------------------------------- a cell


def _cell(folder: Path, row: Row, seed: int | None, column: Column) -> Cell:
    where = folder / "cells" / row.name / f"seed-{'none' if seed is None else seed}" / column.name
    note: dict[str, Any] = {"status": "missing", "reason": "not run"}
    if row.kinds is not None and column.kind not in row.kinds:
        only = f"measured in {', '.join(map(kind_name, row.kinds))} only"
        return Cell(row, seed, column, LEFT_OUT, only, None, {})
    if (where / "cell.json").is_file():
        note = json.loads((where / "cell.json").read_text(encoding="utf-8"))
    status, reason = note.get("status", "missing"), note.get("reason")
    leaves: dict[str, tuple[Record, ...]] = {}
    if status == "done":
        try:
            leaves = read_leaves(where, column)
        except (ValueError, FileNotFoundError) as damage:
            status, reason = "failed", _without(str(damage), folder)
    return Cell(row, seed, column, status, reason, note.get("command"), leaves)


def _without(message: str, folder: Path) -> str:
    """Return a message without the path of the study folder, which differs between machines."""
    return message.replace(f"{folder}/", "").replace(str(folder), "the study folder")


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


def _to_unit(cells: dict[Any, Cell]) -> dict[Any, Cell]:
    """Bring scores from 0 to 100 (RULER's, LongBench's) to 0 to 1, a kind as a whole."""
    largest: dict[str, float] = defaultdict(float)
    for cell in cells.values():
        if cell.column.higher_is_better:
            values = (r.total for records in cell.leaves.values() for r in records)
            largest[cell.column.kind] = max(largest[cell.column.kind], *values, 0.0)
    return {
        key: _divided(cell, 100.0) if largest[cell.column.kind] > 1 else cell
        for key, cell in cells.items()
    }


def _divided(cell: Cell, by: float) -> Cell:
    leaves = {
        leaf: tuple(replace(record, total=record.total / by) for record in records)
        for leaf, records in cell.leaves.items()
    }
    return replace(cell, leaves=leaves)
