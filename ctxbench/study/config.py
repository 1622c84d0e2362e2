"""A study as it is run: its protocol (`ctxbench.core.protocol`), its trainings, its documents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ctxbench.core.protocol import Column, Protocol, Row
from ctxbench.core.settings import Length
from ctxbench.methods.registry import get_method
from ctxbench.train.config import TrainConfig, make_config

BUDGET = (
    *("data", "init", "length", "tokens", "batch_size", "stages", "optimizer", "lr", "betas"),
    *("eps", "weight_decay", "clip", "schedule", "warmup", "warmup_shape", "hold", "final_lr"),
    *("ema_decay", "document_mask", "own_lr"),
)
"""Fields of a training run that must be equal for methods to compare."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Columns that differ in length or shots, as a study file has them.

    Attributes:
        kind: what the report takes them for.
        task: name with `{length}` (32k) or `{shots}`, or without either; several with commas.
        lengths: tokens.
        shots: numbers of shots.
        metric: of lm-eval's results, with its filter where a task has several (`acc,none`).
        higher_is_better: of the metric.
        chance: score of guessing.
        metadata: lm-eval metadata.
        documents: which of the task's documents: the first so many, or `START:STOP:STEP`; per
            length or shots as a mapping; None: all.
        requests: prompts of the column's length that one cell reads, for `ctxbench plan`; per
            length or shots as a mapping.
        needs: local data it looks for, as alternatives, for `ctxbench plan`.
    """

    kind: str
    task: str
    metric: str
    lengths: tuple[Length, ...] = ()
    shots: tuple[int, ...] = ()
    higher_is_better: bool = True
    chance: float | None = None
    metadata: dict = field(default_factory=dict)
    documents: int | str | dict | None = None
    requests: int | dict = 0
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Study(Protocol):
    """A study, resolved: its protocol and how it is run.

    Attributes:
        train: fields of the common budget, with `recipe`; {} where nothing is trained.
        together: what one lm_eval run holds: all columns of a `row`, those of a `kind`, or one
            `column`. Less is lost by a kill, more is spent on starting.
        cache: keep answers, so that a killed run of lm_eval goes on inside, to the same bits.
        other_tasks: tasks of lm-eval's own.
        include_path: folder with the study's own task files; None: it has none.
        shape: fields of the model's config, so that it can be planned for where it is not.
    """

    train: dict
    together: str
    cache: bool
    other_tasks: tuple[str, ...]
    include_path: str | None
    shape: dict

    def row(self, name: str) -> Row:
        """Return a row by its name."""
        return next(row for row in self.rows if row.name == name)

    def columns_of(self, row: Row) -> tuple[Column, ...]:
        """Return the columns that are measured for a row."""
        return tuple(filter(row.has, self.columns))

    def processes(self, row: Row) -> int:
        """Return how many processes, and so devices, a row's training runs on; 1 without one."""
        return 1 if row.train is None else int({**self.train, **row.train}.get("processes") or 1)

    def training(self, row: Row, seed: int, output: str) -> TrainConfig:
        """Return the training run of a row.

        Raises:
            ValueError: settings that ctxbench-train refuses.
        """
        values = training_values(self, row, seed, output)
        return make_config(values.pop("recipe"), values)


def training_values(study: Study, row: Row, seed: int, output: str) -> dict[str, Any]:
    """Return the fields of a row's training run, `recipe` among them."""
    assert row.train is not None
    values = {**study.train, **row.train}
    values = {"recipe": None, "model": study.model, **values, "seed": seed, "output": output}
    return values | {"method": row.method, "options": row.options}


def untrained(study: Study) -> list[str]:
    """Return a sentence for each row, controls apart, whose method needs training and has none."""
    return [
        f"{row.label}: method {row.method} needs training, and this row has none (`train`, or a "
        "trained `checkpoint`). Its numbers will say so."
        for row in study.rows
        if row.method and not (row.trained or row.checkpoint) and row.group != "control"
        if get_method(row.method, **row.options).needs_training
    ]


def document_numbers(column: Column) -> list[int] | None:
    """Return which documents of its task a column reads, None for all."""
    if column.documents is None:
        return None
    if isinstance(column.documents, int):
        return list(range(column.documents))
    parts = [int(part) if part else None for part in str(column.documents).split(":")]
    start, stop, step = ([*parts, None, None])[:3]
    return list(range(start or 0, stop or 0, step or 1))
