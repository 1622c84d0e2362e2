"""The commands of a study, as a user would type them in its folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ctxbench.core.protocol import Column, Row, training_folder
from ctxbench.study.config import Study, document_numbers, training_values

TRAIN, EVALUATE = "ctxbench.train", "lm_eval"
"""Modules behind the commands `ctxbench-train` and `lm_eval`."""


@dataclass(frozen=True)
class Command:
    """A module run as a program, and its arguments."""

    module: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        """Return what a user would type."""
        shown = {TRAIN: "ctxbench-train"}.get(self.module, self.module)
        return shlex.join([shown, *self.arguments])


def train_command(study: Study, row: Row, seed: int) -> Command:
    """Return the training of a row under one seed."""
    arguments = []
    for name, value in training_values(study, row, seed, training_folder(row.name, seed)).items():
        flag = "--" + name.replace("_", "-")
        if name == "options":
            for option, given in value.items():
                arguments += ["--option", f"{option}={_plain(given)}"]
        elif isinstance(value, bool):
            arguments.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, list | tuple):
            arguments += [flag, *map(str, value)]
        elif value is not None:
            arguments += [flag, str(value)]
    return Command(TRAIN, tuple(arguments))


def evaluate_command(
    study: Study,
    row: Row,
    seed: int | None,
    columns: Sequence[Column],
    output: str | None = None,
) -> Command:
    """Return the measurement of a row in columns that can share a run of lm_eval.

    Args:
        study: they belong to.
        row: to measure.
        seed: of its training.
        columns: of one group of `groups`.
        output: folder for lm_eval's files; None leaves the argument out.
    """
    tasks = list(dict.fromkeys(task for column in columns for task in column.tasks))
    arguments = ["--model", "ctxext", "--model_args", _pairs(_model_args(study, row, seed))]
    arguments += ["--tasks", ",".join(tasks)]
    if study.include_path is not None:
        arguments += ["--include_path", study.include_path]
    if metadata := {**columns[0].metadata, **row.metadata}:
        arguments += ["--metadata", json.dumps(metadata)]
    documents = {
        task: numbers
        for column in columns
        if (numbers := document_numbers(column)) is not None
        for task in column.tasks
    }
    if documents:
        arguments += ["--samples", json.dumps(documents)]
    if output:
        arguments += ["--output_path", output]
    return Command(EVALUATE, (*arguments, "--log_samples"))


def groups(study: Study, row: Row) -> list[tuple[Column, ...]]:
    """Return a row's columns in groups that one run of lm_eval measures together.

    Columns of different metadata never share a run, nor do two that read different documents of
    one task.
    """
    found: dict[Any, list[Column]] = {}
    for column in study.columns_of(row):
        together = {"row": "", "kind": column.kind, "column": column.name}[study.together]
        key = (together, json.dumps(column.metadata, sort_keys=True))
        members = found.setdefault((*key, _documents_key(found, key, column)), [])
        members.append(column)
    return [tuple(group) for group in found.values()]


def _documents_key(found: dict[Any, list[Column]], key: tuple, column: Column) -> int:
    """Return the number of the first group of this key whose tasks' documents agree."""
    number = 0
    while any(
        set(member.tasks) & set(column.tasks) and member.documents != column.documents
        for member in found.get((*key, number), ())
    ):
        number += 1
    return number


def _model_args(study: Study, row: Row, seed: int | None) -> dict[str, Any]:
    """Return the model arguments of a row: a trained checkpoint carries its method itself."""
    arguments: dict[str, Any] = {"length": study.length, **study.model_args, **row.model_args}
    if row.train is not None:
        return {"pretrained": training_folder(row.name, seed), **arguments}
    arguments = {"pretrained": row.checkpoint or study.model, **arguments}
    if row.method is not None:
        arguments |= {"method": row.method, **row.options}
    return arguments


def _pairs(values: dict[str, Any]) -> str:
    return ",".join(f"{name}={_plain(value)}" for name, value in values.items())


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and value == int(value) else str(value)
