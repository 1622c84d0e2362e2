"""A study folder: what was planned, and what each cell's result files hold.

    DIR/study.json                        rows, columns, model, budget, seeds
    DIR/cells/ROW/seed-K/COLUMN/          cell.json, results_*.json, samples_*.jsonl

Everything a report says comes from here. A cell without `cell.json` is missing. Nothing read here
depends on dates, on the machine or on the order in which cells were finished.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ctxbench.report.heatmap import task_family
from ctxbench.report.result_files import find_runs, read_samples

CLASSES = {
    "frozen": "Exact attention, frozen",
    "exact": "Exact attention, fine-tuned",
    "approximate": "Approximate attention",
    "control": "Controls",
}
"""Classes of methods in the order of the paper's Table 1."""

_RUN_KINDS = ("manyshot",)  # samples of one run share their shots: the run is the independent unit
_TEXT_KINDS = ("perplexity", "nll")  # windows of one text are not independent


@dataclass(frozen=True)
class Row:
    """One method under one training, the same in every column."""

    name: str
    label: str
    group: str
    method: str
    options: dict[str, Any] = field(hash=False)
    trained: bool
    trained_length: int | None
    recipe: str | None
    own_budget: str | None
    seeds: tuple[int | None, ...]


@dataclass(frozen=True)
class Column:
    """One measurement: a task, or a group of tasks that is averaged, at one length."""

    name: str
    kind: str
    length: int | None
    shots: int | None
    tasks: tuple[str, ...]
    metric: str
    higher_is_better: bool
    chance: float | None

    @property
    def family(self) -> str:
        """The name of the first task without its length."""
        return task_family(self.tasks[0])


@dataclass(frozen=True)
class Record:
    """One sample of one leaf task.

    Attributes:
        document: what was asked; equal in two rows if they were asked the same.
        unit: what is independent of other units: the document, its text, or the run of shots.
        total: of the score, or of the negative log-likelihood in nats.
        weight: 1, or the number of scored tokens.
        length: of the prompt as the task names it, tokens.
        depth: of the needle, 0 to 1.
        positions: (sum of NLL in nats, tokens) by bucket of positions, for Figure 3.
    """

    document: str
    unit: str
    total: float
    weight: float
    length: int | None = None
    depth: float | None = None
    positions: tuple[tuple[float, float], ...] = ()
    bucket: int | None = None


@dataclass(frozen=True)
class Cell:
    """One row under one seed in one column."""

    row: Row
    seed: int | None
    column: Column
    status: str
    reason: str | None
    command: str | None
    leaves: dict[str, tuple[Record, ...]] = field(hash=False)
    record: dict[str, Any] = field(hash=False)
    """What the model noted about itself: method, options, lengths."""


@dataclass(frozen=True)
class Study:
    """A study folder, read."""

    folder: Path
    plan: dict[str, Any] = field(hash=False)
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    cells: dict[tuple[str, int | None, str], Cell] = field(hash=False)

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

    def options(self, row: Row) -> dict[str, Any]:
        """Return a row's options as the model resolved them; as planned if no cell is done."""
        records = (c.record for c in self.cells.values() if c.row is row and "options" in c.record)
        return {**row.options, **next(records, {"options": {}})["options"]}

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
    def unfinished(self) -> tuple[Cell, ...]:
        """Failed and missing cells, in the order of the plan."""
        return tuple(cell for cell in self.cells.values() if cell.status != "done")


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
        rows = tuple(_row(row) for row in plan["rows"])
        columns = tuple(_column(column) for column in plan["columns"])
        plan["window"] + 0
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
    return Study(folder, plan, rows, columns, _to_unit(cells))


def _row(row: dict[str, Any]) -> Row:
    if row["class"] not in CLASSES:
        raise ValueError(f"class {row['class']!r} of {row['name']!r} is none of {list(CLASSES)}")
    return Row(
        name=row["name"],
        label=row.get("label") or row["name"],
        group=row["class"],
        method=row["method"],
        options=row.get("options") or {},
        trained=bool(row.get("trained")),
        trained_length=row.get("trained_length"),
        recipe=row.get("recipe"),
        own_budget=row.get("own_budget"),
        seeds=tuple(row.get("seeds") or [None]),
    )


def _column(column: dict[str, Any]) -> Column:
    return Column(
        name=column["name"],
        kind=column["kind"],
        length=column.get("length"),
        shots=column.get("shots"),
        tasks=tuple(column["tasks"]),
        metric=column["metric"],
        higher_is_better=bool(column["higher_is_better"]),
        chance=column.get("chance"),
    )


# ---------------------------------------------------------------------- a cell


def _cell(folder: Path, row: Row, seed: int | None, column: Column) -> Cell:
    where = folder / "cells" / row.name / f"seed-{'none' if seed is None else seed}" / column.name
    note: dict[str, Any] = {"status": "missing", "reason": "not run"}
    if (where / "cell.json").is_file():
        note = json.loads((where / "cell.json").read_text(encoding="utf-8"))
    status, reason = note.get("status", "missing"), note.get("reason")
    leaves: dict[str, tuple[Record, ...]] = {}
    record: dict[str, Any] = {}
    if status == "done":
        try:
            leaves, record = _read(where, column)
        except (ValueError, FileNotFoundError) as damage:
            status, reason = "failed", _without(str(damage), folder)
    return Cell(row, seed, column, status, reason, note.get("command"), leaves, record)


def _without(message: str, folder: Path) -> str:
    """Return a message without the path of the study folder, which differs between machines."""
    return message.replace(f"{folder}/", "").replace(str(folder), "the study folder")


def _read(where: Path, column: Column) -> tuple[dict[str, tuple[Record, ...]], dict[str, Any]]:
    """Return the samples by leaf task, and what the model noted about itself."""
    run = find_runs([where])[-1]
    leaves = {}
    for task in sorted(run.samples):
        if task in column.tasks or _is_leaf(task, column.tasks, run.content):
            leaves[task] = tuple(_records(run.samples[task], task, column))
    if not leaves:
        raise ValueError(
            f"There are no samples of {', '.join(column.tasks)} beside {run.path.name}. Intervals "
            "and paired tests need them: run lm_eval with --log_samples."
        )
    return leaves, (run.content.get("config") or {}).get("ctxbench") or {}


def _is_leaf(task: str, groups: tuple[str, ...], content: dict[str, Any]) -> bool:
    """Return whether a task belongs to one of the groups, at any depth."""
    subtasks = content.get("group_subtasks") or {}
    inside = [member for group in groups for member in subtasks.get(group, ())]
    return task in inside or (bool(inside) and _is_leaf(task, tuple(inside), content))


def _records(path: Path, task: str, column: Column) -> list[Record]:
    found = []
    family = task_family(task)
    first_filter = None
    for sample in read_samples(path):
        first_filter = first_filter or sample.get("filter", "none")
        if sample.get("filter", "none") != first_filter or column.metric not in sample:
            continue
        found.append(_record(sample, family, column))
    if not found:
        raise ValueError(f"{path.name} has no sample with the metric {column.metric!r}.")
    return found


def _record(sample: dict[str, Any], family: str, column: Column) -> Record:
    doc, value = sample.get("doc") or {}, sample[column.metric]
    document = f"{sample['doc_id']} {sample.get('doc_hash', '')}".strip()
    unit = f"{family} {sample['doc_id']}"
    if column.kind in _RUN_KINDS and "run" in doc:
        unit = f"{family} run {doc['run']}"
    if column.kind in _TEXT_KINDS and "module" in doc:
        unit = f"{family} {doc['module']}"
    positions: tuple[tuple[float, float], ...] = ()
    if isinstance(value, (int, float)):
        total, weight = float(value), 1.0
    elif value and isinstance(value[0], (list, tuple)):
        positions = tuple((float(nll), float(tokens)) for nll, tokens in value)
        total, weight = (sum(part) for part in zip(*positions, strict=True))
        unit = f"{family} {doc.get('document', sample['doc_id'])}"
    elif len(value) == 2:  # log-likelihood and tokens
        total, weight = -float(value[0]), float(value[1])
    else:  # document, negative log-likelihood, tokens
        unit, total, weight = f"{family} {value[0]}", float(value[1]), float(value[2])
    return Record(
        document,
        unit,
        total,
        weight,
        doc.get("length"),
        doc.get("depth"),
        positions,
        doc.get("bucket"),
    )


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
        leaf: tuple(Record(**{**record.__dict__, "total": record.total / by}) for record in records)
        for leaf, records in cell.leaves.items()
    }
    return Cell(**{**cell.__dict__, "leaves": leaves})
