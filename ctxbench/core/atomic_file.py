"""Files that no reader, and no crash, ever sees a part of."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
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


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, which gets its name, on disk, when the block ends without an error.

    Args:
        folder: its name; nothing, or an empty folder, is there.
    """
    folder = folder.resolve()
    building = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(building, ignore_errors=True)  # of a killed process
    building.mkdir(parents=True)
    try:
        yield building
        sync_all(building)
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    sync(folder.parent)


def write_inside(folder: Path, name: str, content: bytes) -> Path:
    """Write a whole file into a folder, never through a link that leads out of it.

    Args:
        folder: made if needed; the user named it, so it may be a link itself.
        name: of the file in it, with `/` between folders.
        content: of the file.

    Returns:
        Its path.

    Raises:
        ValueError: the file, or a folder on the way, is a link, or the name leads out.
    """
    parts = PurePosixPath(name).parts
    path = folder.joinpath(*parts)
    inner = [folder.joinpath(*parts[: count + 1]) for count in range(len(parts))]
    links = [each for each in inner if each.is_symlink()]
    if links or ".." in parts or name.startswith("/"):
        raise ValueError(
            f"{links[0] if links else path} is not written: it is a link, or its name leads out of "
            f"{folder}, and no file is written there. Remove it, or give another folder (--out)."
        )
    write_atomically(path, content, synced=False)
    return path


def sync_all(folder: Path) -> None:
    """Put a folder and all in it on disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Put a file's content, or a folder's names, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
