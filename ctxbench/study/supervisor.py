"""Starts the commands of a study and dies with it: `python -m ctxbench.study.supervisor`.

Reads one JSON object a line: `id`, `module`, `arguments`, `folder` to run in, `log` to write to,
`environment` to add; answers `{"id", "status"}` when a command has ended. At the end of its input
(its study was killed) it kills what runs, so that two never write to one folder.

With `--warm` it imports what all commands need and a command is a fork: `lm_eval` takes seconds to
start, a study starts it dozens of times. Without, every command is a fresh interpreter, which is
what a GPU needs (CUDA does not survive a fork).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import sys
import traceback
from typing import Any

WARM = (
    "lm_eval.evaluator",
    "lm_eval.loggers",
    "lm_eval.tasks.manager",
    "lm_eval.models.huggingface",
    "transformers.models.llama.modeling_llama",
    "ctxbench.models.ctxext",
    "ctxbench.train.cli",
    "ctxbench.train.loop",
)
"""Imported once; nothing in them depends on a command."""
_POLL = 0.05  # seconds
_DIES_WITH_PARENT = 1  # Linux, prctl(2): PR_SET_PDEATHSIG


def main() -> None:
    """Serve until the input ends."""
    _die_with_parent()
    warm = "--warm" in sys.argv[1:]
    if warm:
        for name in WARM:
            importlib.import_module(name)
    running: dict[int, int] = {}
    waiting, ended = b"", False
    while not ended:
        if select.select([0], [], [], _POLL)[0]:
            read = os.read(0, 1 << 16)
            ended = not read
            *lines, waiting = (waiting + read).split(b"\n")
            for line in lines:
                job = json.loads(line)
                running[_start(job, warm)] = job["id"]
        for child in list(running):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                answer = {"id": running.pop(child), "status": os.waitstatus_to_exitcode(status)}
                os.write(1, json.dumps(answer).encode() + b"\n")
    for child in running:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)


def _start(job: dict[str, Any], warm: bool) -> int:
    """Start a command in a child that leads a process group; return its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setpgid(0, 0)
        _die_with_parent()
        _redirect(job["log"])
        os.chdir(job["folder"])
        os.environ.update(job["environment"])
        if not warm:
            run = [sys.executable, "-m", job["module"], *job["arguments"]]
            os.execv(sys.executable, run)
        sys.argv = [job["module"], *job["arguments"]]
        runpy.run_module(job["module"], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _redirect(log: str) -> None:
    """Send output to a file and take input from nowhere."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(nothing, 0)
    os.dup2(written, 1)
    os.dup2(written, 2)


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, however that happens."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)


if __name__ == "__main__":
    main()
