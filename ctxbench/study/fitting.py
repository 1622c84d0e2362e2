"""What of a study does not fit a GPU's memory, and with which settings it would.

The estimates are those of `ctxbench-train --dry-run` and `ctxbench plan --model`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from ctxbench.core.cost import GIB, Device, Shape
from ctxbench.train.config import TrainConfig
from ctxbench.train.cost import peak_memory

_NAMES = ("processes", "shard", "sequence_parallel", "micro_batch_size", "activation_offload")
USABLE = 0.95
"""Of a GPU's memory, beside the driver and what the allocator cannot use."""
_MOST = 64  # GPUs for which settings are looked for
_SHARING = 8  # of them that share a row: they must divide a model's heads


def usable(device: Device) -> float:
    """Return the bytes of a device that a run may take."""
    return USABLE * device.memory


def training_warning(config: TrainConfig, shape: Shape, device: Device) -> str:
    """Return what does not fit of a training and what would; empty where it fits.

    Args:
        config: of the training.
        shape: of the model, with what of it trains.
        device: each of its processes has one.
    """
    processes = config.processes or 1
    needed = _bytes(config, shape)
    if needed is None or needed <= usable(device):
        return ""
    return (
        f"needs {needed / GIB:.0f} GiB on each of {processes} GPUs, one {device.name} has "
        f"{usable(device) / GIB:.0f}. {_what_fits(config, shape, device)}"
    )


def reading_memory(shape: Shape, length: int, itemsize: int) -> float:
    """Return the bytes of reading one prompt: weights, its cache, its widest layer.

    Args:
        shape: of the model.
        length: of the prompt, tokens.
        itemsize: bytes of a weight.
    """
    return shape.parameters * itemsize + shape.forward_bytes(itemsize) * length


def _what_fits(config: TrainConfig, shape: Shape, device: Device) -> str:
    """Return the first settings that fit, those that change least first."""
    for tried in _settings(config):
        needed = _bytes(tried, shape)
        if needed is not None and needed <= usable(device):
            changed = [name for name in _NAMES if getattr(tried, name) != getattr(config, name)]
            said = ", ".join(f"{name}: {_plain(getattr(tried, name))}" for name in changed)
            return f"With {said} under its `train` it takes {needed / GIB:.0f}."
    return (
        f"No batch size, offloading or cut over up to {_MOST} GPUs makes it fit with optimizer: "
        f"{config.optimizer}. Fits: a shorter length, adapters (longlora), or adamw for muon."
    )


def _settings(config: TrainConfig) -> Iterator[TrainConfig]:
    """Yield the settings that are tried."""
    sizes = [config.micro_batch_size]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    numbers = [config.processes or 1]
    while numbers[-1] < _MOST and config.optimizer != "muon":  # which needs whole matrices
        numbers.append(2 * numbers[-1])
    keeps = config.activation_checkpointing == "none"  # and has no inputs apart to put elsewhere
    offloads = (False,) if keeps else (config.activation_offload, True)
    for number, shared, offload, size in itertools.product(numbers, (1, _SHARING), offloads, sizes):
        if number % shared == 0:
            yield dataclasses.replace(
                config, processes=number, shard=number, micro_batch_size=size,
                sequence_parallel=max(shared, config.sequence_parallel), activation_offload=offload,
            )  # fmt: skip


def _bytes(config: TrainConfig, shape: Shape) -> float | None:
    """Return the bytes of each device; None where the batch does not divide so."""
    try:
        return sum(peak_memory(config, shape, config.processes or 1).values())
    except ValueError:
        return None


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
