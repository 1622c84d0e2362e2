"""A cache of sample specifications: what a sample is made from, about a kilobyte each.

Prompts of 128k tokens are half a megabyte, so they are not kept; a spec is enough to write one
again. A file holds the specs of one leaf task in one setting. Its name ends in a digest of all
that the samples depend on, so a change of anything makes another file and nothing is ever stale.
Files appear whole (written aside, synced, renamed); processes that want the same file wait for the
first of them. Every file carries the digest of its rows and is checked when it is read.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxbench.core.assets import cache_dir
from ctxbench.core.atomic_file import write_atomically
from ctxbench.core.text_files import json_lines, json_objects

Row = dict[str, Any]


@dataclass(frozen=True)
class SpecFile:
    """Specs as read from a file.

    Attributes:
        path: of the file.
        key: everything the rows depend on.
        report: what was noted while they were made.
        rows: one per sample.
    """

    path: Path
    key: dict[str, Any]
    report: dict[str, Any]
    rows: list[Row]

    @property
    def counted(self) -> str:
        """How tokens were counted, as a sentence."""
        return f"Prompt lengths: {self.report.get('counted', 'not recorded')}."


def folder() -> Path:
    """Return where the files are, under the name they have had since version 0.1.0."""
    return cache_dir() / "recipes"


def path_of(key: dict[str, Any]) -> Path:
    """Return the file for a key; the key's `leaf` is the beginning of its name."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return folder() / f"{key['leaf']}-{digest}.jsonl"


def read(path: Path) -> SpecFile:
    """Read a file and check that it is whole.

    Raises:
        ValueError: it is damaged.
    """
    try:
        header, _, body = path.read_bytes().partition(b"\n")
        about = json.loads(header)
        if hashlib.sha256(body).hexdigest() != about["sha256"]:
            raise ValueError("its rows are not those that were written")
        rows = [row for _, row in json_objects(body.splitlines(), path)]
        return SpecFile(path, about["key"], about["report"], rows)
    except (ValueError, KeyError, TypeError) as damage:
        raise ValueError(
            f"The sample file {path} is damaged ({damage}). Remove it with "
            f"`ctxbench data rm {path.stem}`; it is made again when it is needed."
        ) from damage


def write(path: Path, key: dict[str, Any], report: dict[str, Any], rows: list[Row]) -> None:
    """Write a file, whole or not at all."""
    body = json_lines(rows)
    about = {"key": key, "report": report, "sha256": hashlib.sha256(body).hexdigest()}
    write_atomically(path, json.dumps(about).encode() + b"\n" + body, shared=True)


def get(key: dict[str, Any], make: Callable[[], tuple[list[Row], dict[str, Any]]]) -> SpecFile:
    """Return the specs of a key, making them when they are not there yet.

    Args:
        key: everything the rows depend on, with the name of the task as `leaf`.
        make: returns rows and report.

    Raises:
        ValueError: the file is damaged, or whatever `make` raises.
    """
    from filelock import FileLock

    path = path_of(key)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():  # another process may have made it while we waited
                rows, report = make()
                write(path, key, report, rows)
    return read(path)


def files(pattern: str = "*") -> Iterator[Path]:
    """Yield the files whose name matches: a whole name, the task's, or with `*` and `?`."""
    for path in sorted(folder().glob("*.jsonl")):
        leaf = path.stem.rpartition("-")[0]
        if Path(path.stem).match(pattern) or Path(leaf).match(pattern):
            yield path


def remove(path: Path) -> None:
    """Remove a file and its lock."""
    path.unlink(missing_ok=True)
    path.with_suffix(".lock").unlink(missing_ok=True)
