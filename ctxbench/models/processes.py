"""Processes of one evaluation: each takes a part of the requests, or all would do the same."""

from __future__ import annotations

import os

import torch


def launched_processes() -> int:
    """Return how many processes the launcher started (`WORLD_SIZE`), 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


def join_processes(device: str | None) -> None:
    """Let Accelerate join processes on CPUs: without this it takes them for independent runs."""
    on_cpu = not torch.cuda.is_available() or str(device) == "cpu"
    if launched_processes() > 1 and on_cpu:
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")


def check_processes(together: int) -> None:
    """Check that all launched processes share the work.

    Args:
        together: processes that know of each other.

    Raises:
        ValueError: there are others.
    """
    if together != launched_processes():
        raise ValueError(
            f"{launched_processes()} processes were launched but {together} work together, so "
            "each would do the work of all. Launch with torchrun or accelerate launch --multi_gpu "
            "(on CPUs too), one process per device."
        )
