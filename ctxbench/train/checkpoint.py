"""Checkpoints that survive being killed at any moment.

A checkpoint is written to `step_N.tmp`, every process its own part, every file synced; the first
process writes a manifest with sizes and hashes last, and renames the folder to `step_N`; only then
are old ones removed. What is not whole has no manifest, or one that does not fit, and is skipped by
name. Another number of processes can go on from it (shards.py). The folder is on a disk that all
processes see.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ctxbench.core.atomic_file import sync
from ctxbench.train.shards import ShardReader, write_shard

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk.

    Attributes:
        folder: where it is.
        info: what the run put into `trainer.json`, with `step`: updates done.
    """

    folder: Path
    info: dict[str, Any]

    @property
    def step(self) -> int:
        """Updates done."""
        return self.info["step"]

    def tensors(self) -> ShardReader:
        """Return its tensors."""
        return ShardReader(self.folder)


def save_checkpoint(
    folder: Path,
    info: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    keep: int,
    rank: int = 0,
    gather: Callable[[Any], list] = lambda value: [value],
) -> Path:
    """Write a checkpoint and prune old ones; return its folder.

    All processes of a run call it.

    Args:
        folder: of all checkpoints.
        info: JSON values, with `step`.
        tensors: by name.
        keep: newest checkpoints to keep.
        rank: of this process.
        gather: returns the values of all processes that call; they wait for each other in it.
    """
    final = folder / f"step_{info['step']:08d}"
    building = final.with_suffix(".tmp")
    if rank == 0:
        _remove(building)
        building.mkdir(parents=True)
    gather(None)
    written = write_shard(tensors, building, rank)
    if written:
        sync(written)
    described = gather(written and (written.name, _describe(written)))
    if rank == 0:
        about = building / "trainer.json"
        about.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
        manifest = dict([*filter(None, described), (about.name, _describe(about))])
        (building / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for file in (about, building / _MANIFEST, building):
            sync(file)
        if final.exists():  # found damaged when the run was resumed
            _remove(final)
        os.rename(building, final)
        sync(folder)
        for old in sorted(folder.glob("step_????????"))[:-keep]:
            _remove(old)
    gather(None)
    return final


def find_checkpoint(
    folder: Path, warn: Callable[[str], None] = logger.warning
) -> Checkpoint | None:
    """Return the newest whole checkpoint, None if there is none.

    Args:
        folder: of all checkpoints.
        warn: told the name of every checkpoint that is skipped, and why.
    """
    for candidate in sorted(folder.glob("step_*"), reverse=True):
        problem = _problem(candidate)
        if problem is None:
            return open_checkpoint(candidate)
        warn(f"Skipped the checkpoint {candidate.name}: {problem}.")
    return None


def open_checkpoint(folder: Path) -> Checkpoint:
    """Return a checkpoint that is known to be whole."""
    return Checkpoint(folder, json.loads((folder / "trainer.json").read_text(encoding="utf-8")))


def _problem(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, None if it is whole."""
    if folder.suffix == ".tmp":
        return "it was being written when the run ended"
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest.items():
            found = folder / name
            if found.stat().st_size != expected["size"]:
                return f"{name} has {found.stat().st_size} bytes, not {expected['size']}"
            if _hash(found) != expected["sha256"]:
                return f"the content of {name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (json.JSONDecodeError, KeyError, TypeError):
        return f"{_MANIFEST} is damaged"
    if name := _not_finite(folder):
        return f"{name} has entries that are no numbers"
    return None


def _not_finite(folder: Path) -> str | None:
    """Return the name of a tensor with an entry that is no number, None if there is none."""
    saved = ShardReader(folder)
    return next((name for name in saved if not saved.is_finite(name)), None)


def _describe(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": _hash(file)}


def _hash(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def _remove(folder: Path) -> None:
    """Remove a checkpoint, its manifest first, so that a killed removal leaves nothing valid."""
    (folder / _MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
