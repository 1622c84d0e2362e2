"""One run writes to an output folder at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctxbench.core.folder_lock import only_process


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this run; the first process of a run does it for all.

    Raises:
        ValueError: another run holds it.
    """
    if int(os.environ.get("RANK", 0)):
        yield
        return
    with only_process(folder, "ctxbench-train"):
        yield
