"""A study as data: rows (what is compared), columns (what is measured), one budget, seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ctxbench.core.settings import Length
from ctxbench.train.config import TrainConfig, make_config

BUDGET = (
    *("data", "init", "length", "tokens", "batch_size", "stages", "optimizer", "lr", "betas"),
    *("eps", "weight_decay", "clip", "schedule", "warmup", "warmup_shape", "hold", "final_lr"),
    *("ema_decay", "document_mask", "own_lr"),
)
"""Fields of a training run that must be equal for methods to compare."""


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One method under one training (or none), the same in every column.

    Attributes:
        name: of its folder.
        label: shown.
        group: the class of its method as in the paper's Table 1; `control` for controls.
        method: extension method or preset; None: the checkpoint's own, or the recipe's.
        options: of the method.
        train: fields of the training run over the common budget's; None: not trained here.
        own_budget: why the training is not the common one; required where it differs.
        checkpoint: a published model in place of the study's own; its `pretrained`.
        trained_length: of a published checkpoint, tokens.
        untrained: whether the same method without training is a row too (`NAME-untrained`).
        columns: kinds of columns measured; None: all.
        model_args: further arguments of the model at evaluation.
        metadata: further lm-eval metadata at evaluation.
        seeds: those of this row; None: the study's for a trained row.
    """

    name: str
    label: str
    group: Literal["frozen", "exact", "approximate", "control"] = field(metadata={"key": "class"})
    method: str | None = None
    options: dict = field(default_factory=dict)
    train: dict | None = None
    own_budget: str | None = None
    checkpoint: str | None = None
    trained_length: Length | None = None
    untrained: bool = True
    columns: tuple[str, ...] | None = None
    model_args: dict = field(default_factory=dict)
    metadata: dict = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """Columns that differ in length or shots, as a study file has them.

    Attributes:
        kind: what the report takes them for.
        task: name with `{length}` (32k) or `{shots}`, or without either; several with commas.
        lengths: tokens.
        shots: numbers of shots.
        metric: of lm-eval's results.
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
class StudyColumn:
    """One measurement: a task at a length. Fields as in `Family`."""

    name: str
    kind: str
    length: int | None
    shots: int | None
    tasks: tuple[str, ...]
    metric: str
    higher_is_better: bool
    chance: float | None
    metadata: dict
    documents: int | str | None
    requests: int
    needs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study, resolved.

    Attributes:
        name: of its file.
        title: shown.
        model: every row begins with: bundled, folder, or hub id.
        model_name: shown.
        window: of the model, tokens.
        length: window at evaluation, tokens: the longest prompt and its answer.
        rows: in the order of the tables.
        columns: in the order of the tables.
        train: fields of the common budget, with `recipe`; {} where nothing is trained.
        seeds: of the trained rows.
        notes: what a reader of the report must know.
        together: what one lm_eval run holds: all columns of a `row`, those of a `kind`, or one
            `column`. Less is lost by a kill, more is spent on starting.
        cache: keep answers, so that a killed run of lm_eval goes on inside, to the same bits.
        model_args: of every evaluation.
        other_tasks: tasks that are not ctxbench's.
        shape: fields of the model's config, so that it can be planned for where it is not.
    """

    name: str
    title: str
    model: str
    model_name: str
    window: int
    length: int
    rows: tuple[StudyRow, ...]
    columns: tuple[StudyColumn, ...]
    train: dict
    seeds: tuple[int, ...]
    notes: tuple[str, ...]
    together: str
    cache: bool
    model_args: dict
    other_tasks: tuple[str, ...]
    shape: dict

    def row(self, name: str) -> StudyRow:
        """Return a row by its name."""
        return next(row for row in self.rows if row.name == name)

    def columns_of(self, row: StudyRow) -> tuple[StudyColumn, ...]:
        """Return the columns that are measured for a row."""
        return tuple(c for c in self.columns if row.columns is None or c.kind in row.columns)

    def seeds_of(self, row: StudyRow) -> tuple[int | None, ...]:
        """Return a row's seeds: [None] where nothing is drawn."""
        return (row.seeds or self.seeds) if row.train is not None else (None,)

    def training(self, row: StudyRow, seed: int, output: str) -> TrainConfig:
        """Return the training run of a row.

        Raises:
            ValueError: settings that ctxbench-train refuses.
        """
        values = training_values(self, row, seed, output)
        return make_config(values.pop("recipe"), values)


def training_values(study: Study, row: StudyRow, seed: int, output: str) -> dict[str, Any]:
    """Return the fields of a row's training run, `recipe` among them."""
    assert row.train is not None
    values = {**study.train, **row.train}
    values = {"recipe": None, "model": study.model, **values, "seed": seed, "output": output}
    return values | {"method": row.method, "options": row.options}


def document_numbers(column: StudyColumn) -> list[int] | None:
    """Return which documents of its task a column reads, None for all."""
    if column.documents is None:
        return None
    if isinstance(column.documents, int):
        return list(range(column.documents))
    parts = [int(part) if part else None for part in str(column.documents).split(":")]
    start, stop, step = ([*parts, None, None])[:3]
    return list(range(start or 0, stop or 0, step or 1))
