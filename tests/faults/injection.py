"""Fails the n-th operation on files below a folder, in this process: a full disk, or a kill.

Counted are what Python does with files (open for writing, every write that reaches the system,
fsync, rename, replace, link, mkdir, rmdir, unlink, truncate, sendfile, locks), the writes of
safetensors, and the statements of SQLite.

    full    this operation and every later one that needs room raises ENOSPC; a write is half done
    killed  this operation is half done, and none after it happens, those of `finally` among them
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy.lib.format
import safetensors.torch
from safetensors import SafetensorError

FREEING = ("unlink", "remove", "rmdir", "unlock")
"""Operations that a full disk allows."""


class Killed(BaseException):
    """The process would be gone."""


class Faults:
    """One run of something, in which one operation fails.

    Args:
        root: folder whose files count.
        at: number of the operation, from 1.
        mode: `full` or `killed`.

    Attributes:
        count: operations so far.
        what: kind of the operation that failed, None if none did.
    """

    def __init__(self, root: Path, at: int, mode: str):
        self.root, self.at, self.mode = str(root), at, mode
        self.count = 0
        self.what: str | None = None
        self.paused = False

    @property
    def dead(self) -> bool:
        return self.what is not None and self.mode == "killed"

    def hit(self, kind: str, path: object, half: Callable[[], object] = lambda: None) -> None:
        """Count an operation, and fail where it is its turn; `half` does a part of it."""
        if self.paused or not self._below(path):
            return
        if self.mode == "full" and kind in FREEING:
            return
        self.count += 1
        first = self.what is None and self.count == self.at
        if first:
            half()
            self.what = kind
        if self.dead:
            raise Killed(f"{kind} {path}")
        if self.what is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def _below(self, path: object) -> bool:
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return False
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(self.root)

    @contextmanager
    def pause(self):
        """Let a block's operations happen, uncounted."""
        self.paused = True
        try:
            yield
        finally:
            self.paused = False

    def __enter__(self) -> Faults:
        self._patches = ExitStack()
        for module, name, new in _patches(self):
            self._patches.enter_context(mock.patch.object(module, name, new))
        return self

    def __exit__(self, *error: object) -> None:
        self._patches.close()


def every_operation(
    folder: Path,
    mode: str,
    prepare: Callable[[Path], object],
    act: Callable[[Path, Faults], object],
    look: Callable[[Path, BaseException | None], object],
) -> list[str]:
    """Do something again and again, each time with the next operation failing, until none does.

    Args:
        folder: for a folder per time.
        mode: of `Faults`.
        prepare: makes what is there before.
        act: what is to be tested; what it raised is given to `look`.
        look: asserts that what is there is whole, and that going on gives the undisturbed result.

    Returns:
        The kinds of the operations that failed.
    """
    failed: list[str] = []
    while True:
        root = folder / f"{mode}-{len(failed) + 1}"
        root.mkdir()
        prepare(root)
        raised: BaseException | None = None
        with Faults(root, len(failed) + 1, mode) as faults:
            try:
                act(root, faults)
            except (Killed, Exception) as error:
                raised = error
        if faults.what is None:
            assert raised is None, raised
            look(root, None)
            return failed
        failed.append(faults.what)
        try:
            look(root, raised)
        except BaseException as error:
            raise AssertionError(f"{mode}, operation {len(failed)}: {faults.what}") from error


# ----------------------------------------------------------------- the operations


class _File(io.FileIO):
    """A file whose writes are counted; those of a dead process go nowhere."""

    def __init__(self, faults: Faults, *args):
        self._faults = faults
        super().__init__(*args)

    def write(self, content):
        if self._faults.dead and not self._faults.paused:
            return memoryview(content).nbytes
        half = memoryview(content).cast("B")[: memoryview(content).nbytes // 2]
        self._faults.hit("write", self.name, lambda: super(_File, self).write(half))
        return super().write(content)


def _patches(faults: Faults):
    yield from _opening(faults)
    for name in ("replace", "rename", "link", "symlink", "mkdir", "rmdir", "unlink", "remove"):
        yield os, name, _on_path(faults, name, getattr(os, name))
    for name in ("fsync", "ftruncate"):
        yield os, name, _on_path(faults, name, getattr(os, name))
    yield os, "sendfile", _on_path(faults, "write", os.sendfile)
    yield os, "write", _on_path(faults, "write", os.write)
    yield fcntl, "flock", _locking(faults)
    yield numpy.lib.format, "isfileobj", lambda file: False  # or C writes past Python
    if hasattr(numpy.lib, "_format_impl"):
        yield numpy.lib._format_impl, "isfileobj", lambda file: False
    yield safetensors.torch, "serialize_file", _tensors(faults)
    yield sqlite3, "connect", _database(faults)


def _on_path(faults: Faults, kind: str, real: Callable) -> Callable:
    def called(path, *args, **kwargs):
        where = path
        if kwargs.get("dir_fd") is not None:
            where = os.path.join(os.readlink(f"/proc/self/fd/{kwargs['dir_fd']}"), path)
        faults.hit(kind, where)
        return real(path, *args, **kwargs)

    return called


def _opening(faults: Faults):
    real_open, real_descriptor = builtins.open, os.open

    def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *rest, **kw):
        if not set(mode) & set("wax+") or not faults._below(file) or faults.paused:
            return real_open(file, mode, buffering, encoding, errors, newline, *rest, **kw)
        faults.hit("open", file)
        raw = _File(faults, file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        text = io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline, buffering == 1)
        text.mode = mode
        return text

    def descriptor(path, flags, mode=0o777, *, dir_fd=None):
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            faults.hit("open", path)
        return real_descriptor(path, flags, mode, dir_fd=dir_fd)

    yield builtins, "open", opened
    yield io, "open", opened
    yield os, "open", descriptor


def _locking(faults: Faults) -> Callable:
    real = fcntl.flock

    def flock(descriptor, operation):
        if not operation & fcntl.LOCK_UN:  # the system itself unlocks what the dead have locked
            faults.hit("lock", descriptor)
        return real(descriptor, operation)

    return flock


def _tensors(faults: Faults) -> Callable:
    real = safetensors.torch.serialize_file

    def serialize_file(tensors, filename, metadata=None):
        def half():
            real(tensors, filename, metadata)
            os.truncate(filename, os.path.getsize(filename) // 2)

        try:
            faults.hit("tensors", filename, half)
        except OSError as error:
            reason = f"I/O error: {error.strerror} (os error {error.errno})"
            raise SafetensorError(f"Error while serializing: {reason}") from error
        return real(tensors, filename, metadata)

    return serialize_file


def _database(faults: Faults) -> Callable:
    real = sqlite3.connect

    def connect(path, *args, **kwargs):
        def hit(kind: str) -> None:
            try:
                faults.hit(kind, path)
            except OSError as error:
                raise sqlite3.OperationalError("database or disk is full") from error

        class Connection(sqlite3.Connection):
            def execute(self, *given):
                hit("sql")
                return super().execute(*given)

            def executemany(self, *given):
                hit("sql")
                return super().executemany(*given)

            def commit(self):
                hit("commit")
                super().commit()

            def __exit__(self, *error):
                if error[0] is None:
                    try:
                        hit("commit")
                    except BaseException:
                        self.rollback()
                        raise
                return super().__exit__(*error)

        hit("connect")
        return real(path, *args, factory=Connection, **kwargs)

    return connect
