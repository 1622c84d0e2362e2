"""Errors for users end a command with one line."""

import os
import sys

_KINDS = (ValueError, FileNotFoundError)


def show_user_errors_plainly() -> None:
    """Let an uncaught error of ours print its message alone, without a traceback.

    Only errors meant for users: a `ValueError` or `FileNotFoundError` raised by a line of ctxbench
    itself. `CTXBENCH_TRACEBACK=1` shows everything.
    """
    if os.environ.get("CTXBENCH_TRACEBACK") == "1" or getattr(sys.excepthook, "_ctxbench", False):
        return
    before = sys.excepthook

    def hook(kind, error, traceback):
        if isinstance(error, _KINDS) and _raised_by_us(traceback):
            print(f"ctxbench: {error}", file=sys.stderr)
        else:
            before(kind, error, traceback)

    hook._ctxbench = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def _raised_by_us(traceback) -> bool:
    """Return whether the innermost frame belongs to ctxbench."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    return str(traceback.tb_frame.f_globals.get("__name__", "")).startswith("ctxbench.")
