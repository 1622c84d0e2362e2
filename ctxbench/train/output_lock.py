"""One run writes to an output folder at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this run; the first process of a run does it for all.

    The system lets go of it when the process ends, however it ends.

    Raises:
        ValueError: another run holds it.
    """
    if int(os.environ.get("RANK", 0)):
        yield
        return
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"Another ctxbench-train writes to {folder}. One run works on a folder. Wait for it, "
            "end it, or give another --output."
        ) from None
    try:
        yield
    finally:
        lock.release()
