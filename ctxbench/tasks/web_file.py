"""One file of a web server, downloaded once, in pieces where the connection breaks."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import requests

from ctxbench.core.atomic_file import write_atomically
from ctxbench.core.errors import printable
from ctxbench.core.text_files import explained
from ctxbench.tasks.digests import check_digest

Progress = Callable[[int, int | None], None]
"""Is told how many bytes are there, and of how many, where the server says."""

_PAUSES = (0.5, 1, 2, 4)
"""Seconds before another try after one that brought nothing."""
_HEADERS = {"Accept-Encoding": "identity"}  # sizes and ranges are of the file itself
_TIMEOUT = (10, 60)
_BLOCK = 1 << 20
_SPARE = 64 << 20
"""Bytes that stay free on the disk."""


@dataclass(frozen=True, kw_only=True)
class WebFile:
    """A file to download.

    Attributes:
        name: in the data folder, where tasks look for it.
        urls: of it; the first that answers is taken.
        sha256: of it, where it is known.
        also: other names that tasks accept for it.
        members: of a zip archive, those to unpack beside it, with their SHA-256.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None = None
    also: tuple[str, ...] = ()
    members: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Remote:
    """What a server says of a file: its size (bytes) and what changes with its content."""

    url: str
    size: int | None
    validator: str | None


def ask(urls: Sequence[str]) -> Remote:
    """Ask servers for a file, without its content; the first that has it is taken.

    Raises:
        FileNotFoundError: none has it, with what each said.
    """
    said = []
    for url in urls:
        try:
            answer = requests.head(url, headers=_HEADERS, timeout=_TIMEOUT, allow_redirects=True)
            answer.raise_for_status()
        except requests.RequestException as error:
            said.append(f"{url}: {_short(error)}")
            continue
        size = answer.headers.get("Content-Length", "")
        validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        return Remote(url, int(size) if size.isdigit() else None, validator)
    raise FileNotFoundError(
        f"No server gave it ({'; '.join(said)}). Try again, give a mirror (--mirror FROM=TO), or "
        "download it elsewhere and put it into a folder of CTXBENCH_DATA."
    )


def download(file: WebFile, remote: Remote, folder: Path, progress: Progress) -> Path:
    """Download a file into a folder; a download that broke off goes on where it was.

    The file appears whole, after its digest was compared, and an archive's members after it.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: the server gave it up after several tries.
        ValueError: no room for it, or its content is another one.
    """
    from filelock import FileLock

    path = folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    state = hashlib.sha256(f"{remote.url} {remote.validator} {remote.size}".encode()).hexdigest()
    part = path.with_name(f".{path.name}.{state[:8]}.part")
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            if remote.validator is None and file.sha256 is None:
                part.unlink(missing_ok=True)  # nothing says that it is of the same content
            _check_room(part, remote)
            _transfer(remote, part, progress)
            try:
                check_digest(folder, file.name, part, file.sha256, remote.url)
            except ValueError:
                part.unlink()
                raise
            os.replace(part, path)
            for other in path.parent.glob(f".{path.name}.*.part"):  # of earlier contents
                other.unlink()
    unpack(file, path)
    return path


def unpack(file: WebFile, archive: Path) -> None:
    """Write the members of an archive that are asked for beside it, by these names and no other.

    Raises:
        ValueError: the archive is damaged, or a member is another one.
    """
    advice = "Remove it and run `ctxbench data fetch` again."
    for name, known in file.members.items():
        target = archive.parent / name
        if target.exists():
            continue
        with explained(archive, advice), zipfile.ZipFile(archive) as files:
            if name not in files.namelist():
                raise ValueError(f"{archive} has no {name}. {advice}")
            content = files.read(name)
        if (found := hashlib.sha256(content).hexdigest()) != known:
            raise ValueError(
                f"{archive}: {name} has sha256 {found}; the one that is needed has {known}. "
                f"{advice}"
            )
        write_atomically(target, content)


def _transfer(remote: Remote, part: Path, progress: Progress) -> None:
    """Read until the file is whole; what came before a break is kept."""
    pauses = list(_PAUSES)
    while True:
        before = part.stat().st_size if part.exists() else 0
        if before and before == remote.size:
            return
        try:
            _read(remote, part, before, progress)
            if remote.size is None or part.stat().st_size == remote.size:
                return
            error: Exception = ValueError(f"{part.stat().st_size} of {remote.size} bytes")
        except requests.RequestException as broken:
            error = broken
        if part.exists() and part.stat().st_size > before:
            pauses = list(_PAUSES)
        elif not pauses:
            raise FileNotFoundError(
                f"{remote.url} broke off ({_short(error)}). What came is kept; run the same "
                "command again: it goes on where it was. Or give a mirror (--mirror FROM=TO)."
            ) from error
        else:
            time.sleep(pauses.pop(0))


def _read(remote: Remote, part: Path, before: int, progress: Progress) -> None:
    """Append what a server sends to what is there; start anew where it sends all of it."""
    headers = dict(_HEADERS)
    if before:
        headers["Range"] = f"bytes={before}-"
        if remote.validator and not remote.validator.startswith("W/"):
            headers["If-Range"] = remote.validator
    with requests.get(remote.url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()
            raise requests.ConnectionError("the server has less than what came before")
        answer.raise_for_status()
        continued = answer.headers.get("Content-Range", "").startswith(f"bytes {before}-")
        goes_on = answer.status_code == requests.codes.partial_content and continued
        done = before if goes_on else 0
        with open(part, "ab" if goes_on else "wb") as stream:
            for block in answer.iter_content(_BLOCK):
                stream.write(block)
                done += len(block)
                progress(done, remote.size)
            stream.flush()
            os.fsync(stream.fileno())


def _check_room(part: Path, remote: Remote) -> None:
    needed = (remote.size or 0) - (part.stat().st_size if part.exists() else 0)
    check_room(part.parent, needed, part.name)


def check_room(folder: Path, needed: int, what: str) -> None:
    """Refuse what does not fit a disk.

    Args:
        folder: on the disk.
        needed: bytes.
        what: is to be written.

    Raises:
        ValueError: there is less room.
    """
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise ValueError(
            f"{what} needs {needed / 1e6:,.0f} MB, and the disk of {folder} has "
            f"{free / 1e6:,.0f} MB free ({_SPARE >> 20} MB are left alone). Free some, or give "
            "another folder (--output; of hub files HF_HOME)."
        )


def _short(error: Exception) -> str:
    """Return what went wrong in one line."""
    answer = getattr(error, "response", None)
    if answer is not None:
        return f"{answer.status_code} {answer.reason}"
    reason = str(error).rpartition(": ")[2].strip("()'\" \n")  # the innermost of several
    return f"{type(error).__name__}: {printable(reason)[:100]}"
