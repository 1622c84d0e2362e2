"""What a study planned: its rows, methods under a training, and its columns, measurements."""

from dataclasses import dataclass, field
from typing import Any

from ctxbench.report.heatmap import task_family

CLASSES = {
    "frozen": "Exact attention, frozen",
    "exact": "Exact attention, fine-tuned",
    "approximate": "Approximate attention",
    "control": "Controls",
}
"""Classes of methods in the order of the paper's Table 1."""

KINDS = {
    "perplexity": "Perplexity",
    "needle": "Needle",
    "multiquery": "Four of eight",
    "manyshot": "Many-shot",
    "longbench": "LongBench",
    "ruler": "RULER",
    "nll": "Loss by position",
}
"""What a kind of column is called; one of your own by its name."""


def kind_name(kind: str) -> str:
    """Return what a kind of column is called."""
    return KINDS.get(kind, kind.replace("_", " ").capitalize())


@dataclass(frozen=True)
class Row:
    """One method under one training, the same in every column.

    Attributes:
        kinds: of columns it is measured in; None: all.
    """

    name: str
    label: str
    group: str
    method: str
    options: dict[str, Any] = field(hash=False)
    trained: bool  # here, or a checkpoint that was
    trained_length: int | None
    recipe: str | None
    own_budget: str | None
    seeds: tuple[int | None, ...]
    kinds: tuple[str, ...] | None = None


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


def read_row(row: dict[str, Any]) -> Row:
    """Return a row of study.json.

    Raises:
        ValueError: its class is not one of `CLASSES`.
    """
    if row["class"] not in CLASSES:
        raise ValueError(f"class {row['class']!r} of {row['name']!r} is none of {list(CLASSES)}")
    return Row(
        name=row["name"],
        label=row.get("label") or row["name"],
        group=row["class"],
        method=row["method"],
        options=row.get("options") or {},
        trained=bool(row.get("trained") or row.get("trained_length")),
        trained_length=row.get("trained_length"),
        recipe=row.get("recipe"),
        own_budget=row.get("own_budget"),
        seeds=tuple(row.get("seeds") or [None]),
        kinds=tuple(row["columns"]) if row.get("columns") else None,
    )


def read_column(column: dict[str, Any]) -> Column:
    """Return a column of study.json."""
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
