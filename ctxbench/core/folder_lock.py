"""One process works on a folder at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def only_process(folder: Path, command: str) -> Iterator[None]:
    """Hold a folder; the system lets go of it when the process ends, however it ends.

    Args:
        folder: made if needed.
        command: that works on it, for the message.

    Raises:
        ValueError: another process holds it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"Another {command} writes to {folder}. One process works on a folder. Wait for it, "
            "end it, or give another --output."
        ) from None
    try:
        yield
    finally:
        lock.release()
