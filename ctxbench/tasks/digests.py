"""The SHA-256 of files that were downloaded: known beforehand, or what the first download had.

`fetched.json` in a folder has an entry per file. A later download, or a task that reads the file,
compares with it: whatever replaced or damaged the file in the meantime is noticed.
"""

import functools
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from ctxbench.core.atomic_file import write_atomically
from ctxbench.core.errors import shown

RECORD = "fetched.json"


def check_digest(
    folder: Path, name: str, path: Path, known: str | None, source: str, record: bool = True
) -> str:
    """Compare a file with the digest that is known, else with the recorded one; record the first.

    Args:
        folder: whose record is read and written.
        name: of the entry.
        path: of the file.
        known: its SHA-256, where it was pinned.
        source: where it is from, for the record and the message.
        record: the first is recorded; else it is taken as it is.

    Returns:
        Its SHA-256.

    Raises:
        ValueError: it is another one; the file stays as it is.
    """
    found = file_sha256(path)
    first = known or _recorded(folder, name, found, source if record else None)
    if not known and first != found:
        raise ValueError(
            f"{path} has sha256 {found}; when it was first fetched it had {first} (recorded in "
            f"{folder / RECORD}). It was changed or damaged, or its source was. Remove the file "
            "and fetch it again; if the change is meant, remove its entry there too."
        )
    if known and found != known:
        raise ValueError(
            f"{path} has sha256 {found}; the one that is needed has {known} ({source}). It is "
            "damaged, or another version. Remove it and run `ctxbench data fetch` again."
        )
    return found


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file; of an unchanged one it is computed once."""
    about = path.stat()
    return _sha256(path, about.st_size, about.st_mtime_ns, about.st_ino)


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, *state: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _recorded(folder: Path, name: str, found: str, source: str | None) -> str:
    """Return the digest on record; where there is none, record the one that was found.

    Without a source nothing is recorded.
    """
    from filelock import FileLock

    file = folder / RECORD
    first = _read(file).get(name, {"sha256": found} if source is None else None)
    if first is None:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{RECORD}.lock"):
            record = _read(file)
            first = record.setdefault(
                name, {"sha256": found, "source": source, "date": time.strftime("%Y-%m-%d")}
            )
            write_atomically(file, json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")
    return first["sha256"]


def _read(file: Path) -> dict[str, dict[str, Any]]:
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if all(isinstance(entry["sha256"], str) for entry in found.values()):
            return found
        raise TypeError("a sha256 is no text")
    except (ValueError, TypeError, KeyError, AttributeError) as damage:
        raise ValueError(
            f"{file} is not the record of what was fetched ({shown(str(damage))}). It is JSON with "
            "an entry per file and its sha256. Remove it: the files as they are now are recorded."
        ) from damage
