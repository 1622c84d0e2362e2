"""Files that no reader, and no crash, ever sees a part of."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path, *, synced: bool = True, shared: bool = False) -> Iterator[BinaryIO]:
    """Give a stream whose content takes the place of a file when the block ends without an error.

    Args:
        path: of the file; its folder is made if needed.
        synced: the file is on disk, whole and under its name, when this ends; without, a crash of
            the machine (not of the process) may leave an empty one: for what is checked when read.
        shared: other processes may be writing the same file: each writes under a name of its own,
            which a killed one leaves; else the next writer overwrites what a killed one left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f".{secrets.token_hex(4)}" if shared else ""
    building = path.with_name(f".{path.name}{own}.tmp")
    try:
        with open(building, "wb") as stream:
            yield stream
            if synced:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(building, path)
    except BaseException:
        building.unlink(missing_ok=True)
        raise
    if synced:
        sync(path.parent)


def write_atomically(
    path: Path, content: bytes, *, synced: bool = True, shared: bool = False
) -> None:
    """Write a whole file; arguments as of `replacing`."""
    with replacing(path, synced=synced, shared=shared) as stream:
        stream.write(content)


def sync(path: Path) -> None:
    """Put a file's content, or a folder's names, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
