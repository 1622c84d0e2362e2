"""A study's folder: its settings, its lock, which cells are missing on purpose."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ctxbench.study import cells
from ctxbench.study.commands import seed_folder
from ctxbench.study.config import BUDGET, Study, StudyRow
from ctxbench.train.config import make_config


def describe(study: Study) -> dict[str, Any]:
    """Return `study.json`: what the report reads, and every setting that decides a number."""
    budget: dict[str, Any] = {}
    if study.train and any(row.train is not None for row in study.rows):
        values = {"model": study.model, **study.train, "output": "x"}
        config = make_config(values.pop("recipe", None), values)
        settings = {name: getattr(config, name) for name in BUDGET}
        budget = {"name": study.train.get("recipe") or "defaults", **settings}
    found = {
        "name": study.name,
        "title": study.title,
        "model": _shown(study.model),
        "model_name": study.model_name,
        "window": study.window,
        "length": study.length,
        "budget": budget,
        "seeds": study.seeds,
        "notes": study.notes,
        "model_args": study.model_args,
        "rows": [_row(study, row) for row in study.rows],
        "columns": [
            {k: v for k, v in dataclasses.asdict(column).items() if k not in ("requests", "needs")}
            for column in study.columns
        ],
    }
    return json.loads(json.dumps(found))


def prepare(study: Study, root: Path) -> None:
    """Make a study's folder, or check that it is this study's.

    Raises:
        ValueError: the folder holds a study with other settings.
    """
    file, ours = root / "study.json", describe(study)
    if file.is_file():
        theirs = cells.read_json(file)
        if different := _differences(theirs, ours):
            raise ValueError(
                f"{root} was begun with other settings: {'; '.join(different[:5])}. One folder "
                "holds one study, whose cells compare. Give the same settings, to go on, or "
                "another --output."
            )
    else:
        cells.write_note(file, ours)
    for row in study.rows:
        measured = study.columns_of(row)
        for column in study.columns:
            for seed in study.seeds_of(row) if column not in measured else ():
                _leave_out(root, row, seed, column)


def retry_failed(root: Path) -> int:
    """Forget the failed cells, so that they run again; return how many there were."""
    forgotten = 0
    for file in sorted((root / "cells").glob("*/*/*/cell.json")):
        if cells.read_json(file)["status"] == "failed":
            file.unlink()
            file.parent.rmdir()
            forgotten += 1
    return forgotten


def count(study: Study, root: Path) -> dict[str, list[str]]:
    """Return names of cells by status: done, failed (with reasons), missing."""
    found: dict[str, list[str]] = {"done": [], "failed": [], "missing": []}
    for row in study.rows:
        for seed in study.seeds_of(row):
            for column in study.columns_of(row):
                note = cells.read_note(cells.cell_folder(root, row, seed, column))
                status = note["status"] if note else "missing"
                reason = f": {note['reason']}" if note and note["reason"] else ""
                name = f"{row.name}/{seed_folder(seed)}/{column.name}{reason}"
                found[status].append(name)
    return found


def _leave_out(root: Path, row: StudyRow, seed: int | None, column: Any) -> None:
    """Note why a cell is not measured."""
    folder = cells.cell_folder(root, row, seed, column)
    if cells.read_note(folder) is None:
        kinds = ", ".join(row.columns or ())
        note = {"row": row.name, "seed": seed, "column": column.name, "status": "missing"}
        note |= {"reason": f"this row is measured in {kinds} only", "command": None, "seconds": 0.0}
        cells.write_cell(folder, note, {})


def _row(study: Study, row: StudyRow) -> dict[str, Any]:
    given = dataclasses.asdict(row)
    kept = ("name", "label", "options", "own_budget", "checkpoint", "model_args", "metadata")
    return {
        **{key: given[key] for key in kept},
        "class": row.group,
        "method": row.method,
        "trained": row.train is not None or row.trained_length is not None,
        "trained_length": row.trained_length,
        "recipe": None if row.train is None else row.train.get("recipe", study.train.get("recipe")),
        "train": row.train,
        "columns": row.columns,
        "seeds": study.seeds_of(row),
    }


def _shown(model: str) -> str:
    """Return a model's name without a path of this machine."""
    return Path(model).name if Path(model).is_dir() else model


def _differences(theirs: Any, ours: Any, where: str = "") -> list[str]:
    """Return what differs between two JSON values, as text."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = dict.fromkeys([*ours, *theirs])
        pairs = [(theirs.get(k), ours.get(k), f"{where}.{k}".lstrip(".")) for k in keys]
    elif isinstance(theirs, list) and isinstance(ours, list) and _named(theirs) and _named(ours):
        return _differences(
            {item["name"]: item for item in theirs}, {item["name"]: item for item in ours}, where
        )
    else:
        return [] if theirs == ours else [f"{where} is {_short(theirs)} there, {_short(ours)} now"]
    return [text for old, new, at in pairs for text in _differences(old, new, at)]


def _named(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(item, dict) and "name" in item for item in items)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
