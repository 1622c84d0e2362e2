"""Tensors in files, cut as the processes hold them, read by any other number of processes.

Every process writes `state-RRRRR.safetensors` with its rows of the tensors that are cut; the first
one also those that are whole. Where a piece begins stands in the file's metadata. A reader takes
from all files the rows it needs. There is nothing to unpickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard

from ctxbench.core.tensor_files import save_tensors

_BEGINS = "begins"


def shard_file(rank: int) -> str:
    """Return the name of a process's file."""
    return f"state-{rank:05d}.safetensors"


def write_shard(tensors: Mapping[str, torch.Tensor], folder: Path, rank: int) -> Path | None:
    """Write what this process holds; return the file, None if there is nothing to write.

    Args:
        tensors: by name; whole ones are equal on all processes.
        folder: of the files.
        rank: of this process.
    """
    begins: dict[str, int] = {}
    mine: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            begin, copy = _place(tensor)
            if copy == 0:
                begins[name] = begin
                mine[name] = tensor.to_local().detach().cpu().contiguous()
        elif rank == 0:
            mine[name] = tensor.detach().cpu().contiguous()
    if not mine:
        return None
    file = folder / shard_file(rank)
    save_tensors(mine, file, metadata={_BEGINS: json.dumps(begins)})
    return file


class ShardReader:
    """The tensors of all files of a folder.

    Attributes:
        shapes: of the whole tensors, by name.
    """

    def __init__(self, folder: Path):
        from safetensors import safe_open

        self._pieces: dict[str, list[tuple[Any, int, int]]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in sorted(folder.glob("state-*.safetensors")):
            opened = safe_open(file, framework="pt")
            begins = json.loads((opened.metadata() or {}).get(_BEGINS, "{}"))
            for name in opened.keys():  # noqa: SIM118  (it is no mapping)
                shape = tuple(opened.get_slice(name).get_shape())
                begin = begins.get(name, 0)
                self._pieces.setdefault(name, []).append((opened, begin, shape[0] if shape else 1))
                known = self.shapes.get(name, (0, *shape[1:]))
                rows = max(known[0] if known else 0, begin + (shape[0] if shape else 0))
                self.shapes[name] = (rows, *shape[1:]) if shape else ()

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __contains__(self, name: str) -> bool:
        return name in self._pieces

    def is_finite(self, name: str) -> bool:
        """Return whether all entries of a tensor are numbers."""
        pieces = (file.get_tensor(name) for file, _, _ in self._pieces[name])
        return all(bool(torch.isfinite(piece).all()) for piece in pieces)

    @torch.no_grad()
    def load_into(self, name: str, target: torch.Tensor) -> None:
        """Copy a tensor, or this process's rows of it, into one of the same shape.

        Raises:
            ValueError: the shape is another one.
        """
        if tuple(target.shape) != self.shapes[name]:
            raise ValueError(
                f"The checkpoint has {name} of shape {self.shapes[name]}, this run has "
                f"{tuple(target.shape)}. It is of another model; give another --output."
            )
        if not target.dim():
            target.copy_(self._pieces[name][0][0].get_tensor(name))
            return
        local, first = target, 0
        if isinstance(target, DTensor):
            local, first = target.to_local(), _place(target)[0]
        for file, begin, rows in self._pieces[name]:
            low, high = max(begin, first), min(begin + rows, first + len(local))
            if low < high:
                piece = file.get_slice(name)[low - begin : high - begin]
                local[low - first : high - first].copy_(piece)


def _place(tensor: DTensor) -> tuple[int, int]:
    """Return the first row that this process holds, and which copy of it it has (0 is written).

    FSDP2 cuts the first dimension in parts of equal size, the last ones shorter or empty.
    """
    begin, copy = 0, 0
    for dim, placement in enumerate(tensor.placements):
        size, mine = tensor.device_mesh.size(dim), tensor.device_mesh.get_local_rank(dim)
        if placement == Shard(0):
            begin = min(-(-tensor.shape[0] // size) * mine, tensor.shape[0])
        elif placement == Replicate():
            copy = max(copy, mine)
        else:
            raise AssertionError(f"FSDP2 placed a tensor as {placement}")
    return begin, copy
