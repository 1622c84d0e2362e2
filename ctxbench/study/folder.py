"""A study's folder: its settings, its lock, which cells are missing on purpose."""

from __future__ import annotations

import itertools
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ctxbench import __version__
from ctxbench.core.assets import resolve_model
from ctxbench.core.content import CHECKPOINT_FILES, digest_of
from ctxbench.core.protocol import CellNote, Column, Row, as_json, cell_folder, read_protocol
from ctxbench.study import cells
from ctxbench.study.config import Study


def describe(study: Study) -> dict[str, Any]:
    """Return `study.json`: what the report reads, and every setting that decides a number."""
    found = as_json(study)
    for row, kept in zip(study.rows, found["rows"], strict=True):
        recipe = (row.train or {}).get("recipe", study.train.get("recipe"))
        kept |= {"trained": row.trained, "recipe": None if row.train is None else recipe}
    return json.loads(json.dumps({**found, "model": _shown(study.model)}))


def prepare(study: Study, root: Path) -> None:
    """Make a study's folder, or check that it is this study's.

    Raises:
        ValueError: the folder holds a study with other settings, of models with other bytes, or
            made by a version whose numbers may differ.
    """
    file, ours = root / "study.json", describe(study)
    if file.is_file():
        content = cells.read_json(file)
        theirs = as_json(read_protocol(content, str(file)))
        if different := _differences(theirs, as_json(read_protocol(ours, str(file)))):
            raise ValueError(
                f"{root} was begun with other settings: {'; '.join(different[:5])}. One folder "
                "holds one study, whose cells compare. Give the same settings, to go on, or "
                "another --output."
            )
        _check_made_with(root, content.get("made_with"), made_with(study))
    else:
        cells.write_json(file, {**ours, "made_with": made_with(study)})
    for row in study.rows:
        for column in itertools.filterfalse(row.has, study.columns):
            for seed in row.seeds:
                _leave_out(root, row, seed, column)


def made_with(study: Study) -> dict[str, str]:
    """Return what decides numbers besides the settings: versions, and models here by content."""
    models = [study.model, *(row.checkpoint for row in study.rows if row.checkpoint)]
    found = {
        "ctxbench": ".".join(__version__.split(".")[:2]),  # a patch release moves no number
        "lm_eval": version("lm_eval"),
    }
    for model in dict.fromkeys(models):
        if (place := Path(resolve_model(model)).expanduser()).is_dir():
            files = {file for pattern in CHECKPOINT_FILES for file in place.glob(pattern)}
            found[f"model {_shown(model)}"] = digest_of(sorted(files))
    return found


def _check_made_with(root: Path, theirs: Any, ours: dict[str, str]) -> None:
    """Compare what a study was begun with; of an earlier version's folder nothing is known."""
    if not isinstance(theirs, dict):
        return
    for name, value in ours.items():
        if (before := theirs.get(name, value)) != value:
            raise ValueError(
                f"{root} was begun with {name} {_short(before)[:20]}, and now it is "
                f"{_short(value)[:20]}: its cells would not compare with new ones. Go on with what "
                "it was begun with, or give another --output."
            )


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
        for seed in row.seeds:
            for column in study.columns_of(row):
                folder = cell_folder(row.name, seed, column.name)
                note = cells.note_of(root / folder)
                reason = f": {note.reason}" if note and note.reason else ""
                name = folder.removeprefix("cells/") + reason
                found[note.status if note else "missing"].append(name)
    return found


def _leave_out(root: Path, row: Row, seed: int | None, column: Column) -> None:
    """Note why a cell is not measured."""
    if cells.note_of(root / cell_folder(row.name, seed, column.name)) is None:
        reason = f"this row is measured in {', '.join(row.kinds or ())} only"
        note = CellNote(
            row=row.name, seed=seed, column=column.name, status="missing", reason=reason,
            command=None,
        )  # fmt: skip
        cells.write_cell(root, note, {})


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
