"""Cells on disk. What has its final name is whole: everything is written aside, then renamed.

train/ROW/seed-K/trained.json       the training is finished
runs/ROW/seed-K/GROUP/              a finished run of lm_eval, not yet divided into cells
cells/ROW/seed-K/COLUMN/            a finished cell
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ctxbench.core.atomic_file import sync, write_atomically
from ctxbench.core.protocol import CellNote, Column, as_json, cell_folder, read_note
from ctxbench.core.samples import short_fields

_PER_TASK = ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples",
             "task_hashes", "groups", "group_subtasks")  # fmt: skip
"""Parts of lm-eval's results file that are mappings by task or group."""


def read_json(file: Path) -> dict[str, Any]:
    """Return the content of a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


def note_of(folder: Path) -> CellNote | None:
    """Return what is said of a cell, None where it is missing.

    Raises:
        ValueError: its cell.json is damaged.
    """
    file = folder / "cell.json"
    return read_note(read_json(file), str(file)) if file.is_file() else None


def write_cell(root: Path, note: CellNote, files: dict[str, str]) -> None:
    """Make a cell of what is said of it and its files' texts, replacing one that is there."""
    folder = root / cell_folder(note.row, note.seed, note.column)
    building = partial(folder)
    if building.is_dir():
        shutil.rmtree(building)
    for name, text in files.items():
        write_atomically(building / name, text.encode())
    write_json(building / "cell.json", as_json(note))
    if folder.exists():  # a failed one
        shutil.rmtree(folder)
    commit(building, folder)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write one JSON file, whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomically(file, text.encode())


def commit(building: Path, folder: Path) -> None:
    """Give a finished folder its final name, on disk when this returns."""
    sync(building)
    building.rename(folder)
    sync(folder.parent)


def clean(root: Path) -> None:
    """Remove what a killed study left half-written."""
    for part in ("cells", "runs"):
        for folder in (root / part).glob("*/*/.*.partial"):
            shutil.rmtree(folder)
    for file in root.glob(".*.tmp"):
        file.unlink()


def partial(folder: Path) -> Path:
    """Return the name under which a folder is being written."""
    return folder.with_name(f".{folder.name}.partial")


def divide(run: Path, columns: Sequence[Column]) -> dict[str, dict[str, str]]:
    """Return the files of every column's cell out of a run of lm_eval, without prompts.

    Args:
        run: folder that lm_eval wrote to.
        columns: measured in it.

    Returns:
        Column name -> file name -> text.

    Raises:
        ValueError: the run lacks what a column asked for.
    """
    found = sorted(run.rglob("results_*.json"))
    if not found:
        raise ValueError("lm_eval wrote no results file.")
    content = read_json(found[-1])
    date = found[-1].stem.removeprefix("results_")
    samples = {
        file.name.removeprefix("samples_").removesuffix(f"_{date}.jsonl"): file
        for file in sorted(found[-1].parent.glob(f"samples_*_{date}.jsonl"))
    }
    cells = {}
    for column in columns:
        names = _members(column.tasks, content.get("group_subtasks") or {})
        leaves = [name for name in samples if name in names]
        if not leaves:
            raise ValueError(f"lm_eval wrote no samples of {', '.join(column.tasks)}.")
        files = {found[-1].name: json.dumps(_only(content, names), indent=2, ensure_ascii=False)}
        for leaf in leaves:
            lines = samples[leaf].read_text(encoding="utf-8").splitlines()
            files[samples[leaf].name] = "".join(_lean(line) for line in lines)
        cells[column.name] = files
    return cells


def score_of(cell: Path, column: Column) -> float | None:
    """Return the mean of a finished cell's metric over its tasks, None where there is none."""
    scores = [
        values[name]
        for file in sorted(cell.glob("results_*.json"))[-1:]
        for task, values in (read_json(file).get("results") or {}).items()
        if task in column.tasks
        for name in values
        if column.metric in (name, name.partition(",")[0])
        if isinstance(values[name], int | float)
    ]
    return fmean(scores) if scores else None


def _members(tasks: Sequence[str], subtasks: dict[str, list[str]]) -> set[str]:
    """Return tasks and everything in them that are groups."""
    found, todo = set(), list(tasks)
    while todo:
        name = todo.pop()
        found.add(name)
        todo += [member for member in subtasks.get(name, ()) if member not in found]
    return found


def _only(content: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Return a results file's content with these tasks alone."""
    return {
        key: {n: v for n, v in value.items() if n in names}
        if key in _PER_TASK and isinstance(value, dict)
        else value
        for key, value in content.items()
    }


def _lean(line: str) -> str:
    """Return a sample's line without the prompt: arguments and long texts of the document.

    Hashes of document and prompt stay, and the cell's command makes the prompts again.
    """
    sample = json.loads(line)
    kept = {k: v for k, v in sample.items() if k not in ("arguments", "resps")}
    kept["doc"] = short_fields(sample)
    return json.dumps(kept, ensure_ascii=False) + "\n"
