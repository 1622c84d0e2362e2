"""Errors for users end a command with one line."""

import difflib
import errno
import os
import re
import reprlib
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_KINDS = (ValueError, FileNotFoundError)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP),
)


def show_user_errors_plainly() -> None:
    """Let an uncaught error of ours print its message alone, without a traceback.

    Only errors meant for users: a `ValueError` or `FileNotFoundError` raised by a line of ctxbench
    itself. `CTXBENCH_TRACEBACK=1` shows everything.
    """
    if os.environ.get("CTXBENCH_TRACEBACK") == "1" or getattr(sys.excepthook, "_ctxbench", False):
        return
    before = sys.excepthook

    def hook(kind, error, traceback):
        ours = _passed_us(traceback) if isinstance(error, OSError) else _raised_by_us(traceback)
        if ours and (message := user_message(error)):
            print(f"ctxbench: {message}", file=sys.stderr)
        else:
            before(kind, error, traceback)

    hook._ctxbench = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def user_message(error: BaseException) -> str | None:
    """Return what a user is told of an error, None where only a traceback says it."""
    if not isinstance(error, OSError):
        return str(error) if isinstance(error, _KINDS) else None
    name = error.filename2 or error.filename or "a file"
    if error.errno in _FULL or re.search(r"\d+ requested and \d+ written", str(error)):
        return (
            f"There is no room to write {name} ({error.strerror or error}). What was finished "
            "before is whole. Free some room, or give another place (--output, CTXBENCH_CACHE), "
            "and run the same command again: it goes on where it was."
        )
    if error.errno in _FORBIDDEN:
        return (
            f"{name} cannot be read or written ({error.strerror}). The output and the cache must "
            "be folders you may write to. Change its permissions, or give another place (--output, "
            "CTXBENCH_CACHE)."
        )
    return str(error) if isinstance(error, _KINDS) else None


@contextmanager
def named_for(task: str) -> Iterator[None]:
    """Put a task's name before the errors for users of a block."""
    try:
        yield
    except (*_KINDS, ImportError) as error:
        if str(error).startswith(task) or type(error) not in (*_KINDS, ImportError):
            raise
        raise type(error)(f"{task}: {error}") from error


def raised_by_us(error: BaseException) -> bool:
    """Return whether a line of ctxbench raised an error."""
    return _raised_by_us(error.__traceback__)


def _passed_us(traceback) -> bool:
    """Return whether any frame belongs to ctxbench."""
    while traceback is not None:
        if str(traceback.tb_frame.f_globals.get("__name__", "")).startswith("ctxbench."):
            return True
        traceback = traceback.tb_next
    return False


def _raised_by_us(traceback) -> bool:
    """Return whether the innermost frame belongs to ctxbench."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    return str(traceback.tb_frame.f_globals.get("__name__", "")).startswith("ctxbench.")


def shown(value: Any) -> str:
    """Return a value for a message: short, whatever was given, and with no control characters."""
    return _SHORT.repr(value)


def printable(text: str) -> str:
    """Return a text of somebody's file in one line, without what a terminal or a page obeys."""
    line = re.sub(r"[\r\n\t\v\f\u2028\u2029]+", " ", text)
    return "".join(mark for mark in line if unicodedata.category(mark) not in ("Cc", "Cf", "Cs"))


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 200, 200
_SHORT.maxlong = 500
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 8


def near_names(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean ...?` for a misspelt name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""
