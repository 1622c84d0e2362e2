"""Checkpoints that survive being killed at any moment.

A checkpoint is written to `step_N.tmp`, every file is synced, a manifest with sizes and hashes is
written last, and the folder is renamed to `step_N`; only then are old ones removed. What is not
whole has no manifest, or one that does not fit, and is skipped by name.
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

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Return the tensors of `NAME.safetensors`, {} if there is none."""
        from safetensors.torch import load_file

        file = self.folder / f"{name}.safetensors"
        return load_file(file) if file.exists() else {}

    def optimizers(self) -> list[dict[str, Any]]:
        """Return the optimizers' states, on the CPU."""
        file = self.folder / "optimizers.pt"
        return torch.load(file, map_location="cpu", weights_only=True)


def save_checkpoint(
    folder: Path,
    info: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    optimizers: list[dict[str, Any]],
    keep: int,
) -> Path:
    """Write a checkpoint and prune old ones; return its folder.

    Args:
        folder: of all checkpoints.
        info: JSON values, with `step`.
        tensors: file name without ending -> tensors; empty ones are left out.
        optimizers: their states.
        keep: newest checkpoints to keep.
    """
    from safetensors.torch import save_file

    final = folder / f"step_{info['step']:08d}"
    building = final.with_suffix(".tmp")
    _remove(building)
    building.mkdir(parents=True)
    for name, group in tensors.items():
        if group:
            whole = {k: t.detach().cpu().contiguous() for k, t in group.items()}
            save_file(whole, building / f"{name}.safetensors")
    torch.save(optimizers, building / "optimizers.pt")
    (building / "trainer.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    manifest = {file.name: _describe(file) for file in sorted(building.iterdir())}
    (building / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for file in building.iterdir():
        _sync(file)
    _sync(building)
    if final.exists():  # found damaged when the run was resumed
        _remove(final)
    os.rename(building, final)
    _sync(folder)
    for old in sorted(folder.glob("step_????????"))[:-keep]:
        _remove(old)
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
            info = json.loads((candidate / "trainer.json").read_text(encoding="utf-8"))
            return Checkpoint(candidate, info)
        warn(f"Skipped the checkpoint {candidate.name}: {problem}.")
    return None


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
    return None


def _describe(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": _hash(file)}


def _hash(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """Remove a checkpoint, its manifest first, so that a killed removal leaves nothing valid."""
    (folder / _MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
