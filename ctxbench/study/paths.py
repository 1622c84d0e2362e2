"""A study's local paths as its commands need them, which run in the study's folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from ctxbench.core.assets import BUNDLED_MODELS
from ctxbench.core.protocol import Row
from ctxbench.study.config import Study

_DATA = ("data", "eval_data")
_ENVIRONMENT = ("CTXBENCH_METHODS", "CTXBENCH_DATA")


def seen_from(study: Study, root: Path) -> Study:
    """Return a study whose relative paths, given from the current folder, are those from `root`.

    Models, checkpoints, training data and the folder of own tasks; names of the hub stay.
    """

    def row(given: Row) -> Row:
        checkpoint = given.checkpoint and _moved(given.checkpoint, root)
        train = given.train and _with_data(given.train, root)
        return dataclasses.replace(given, checkpoint=checkpoint, train=train)

    folder = study.include_path
    return dataclasses.replace(
        study,
        model=study.model if study.model in BUNDLED_MODELS else _moved(study.model, root),
        train=_with_data(study.train, root),
        rows=tuple(map(row, study.rows)),
        include_path=None if folder is None else os.path.relpath(folder, root.resolve()),
    )


def environment() -> dict[str, str]:
    """Return the variables that name folders, none of them relative."""
    return {
        name: os.pathsep.join(os.path.abspath(p) for p in os.environ[name].split(os.pathsep) if p)
        for name in _ENVIRONMENT
        if os.environ.get(name)
    }


def _with_data(train: dict[str, Any], root: Path) -> dict[str, Any]:
    moved = {name: [_moved(one, root) for one in train[name]] for name in _DATA if name in train}
    return {**train, **moved}


def _moved(source: str, root: Path) -> str:
    """Return a path, or a source `PATH[:key=value][@weight]`, as it is from `root`."""
    path = source.split(":")[0].split("@")[0]
    if not path or Path(path).is_absolute() or not Path(path).exists():
        return source
    return os.path.relpath(path, root.resolve()) + source[len(path) :]
