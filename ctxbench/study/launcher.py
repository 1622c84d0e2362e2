"""The study's end of the supervisor: start commands, wait for the next one to end."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ctxbench.study.commands import Command


class Launcher:
    """Runs commands in a study's folder, several at a time.

    Args:
        folder: to run in.
        environment: of all commands, over this process's.
        warm: fork commands from a process that has imported what they need; CPU only.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], *, warm: bool):
        self.folder = folder.resolve()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ctxbench.study.supervisor", *(["--warm"] if warm else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
        )

    def start(
        self, number: int, command: Command, log: Path, environment: Mapping[str, str]
    ) -> None:
        """Start a command.

        Args:
            number: that `wait` will return.
            command: to run.
            log: file for all it prints, replaced.
            environment: of this command alone.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        job = {
            "id": number,
            "module": command.module,
            "arguments": command.arguments,
            "folder": str(self.folder),
            "log": str(log.resolve()),
            "environment": dict(environment),
        }
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def wait(self) -> tuple[int, int]:
        """Return the number and exit status of the next command to end (negative: a signal)."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        return answer["id"], answer["status"]

    def close(self) -> None:
        """End the supervisor and whatever still runs."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self.process.wait()

    def __enter__(self) -> Launcher:
        """Return itself."""
        return self

    def __exit__(self, *error) -> None:
        """Close."""
        self.close()

    def _ended(self) -> ValueError:
        status = self.process.wait()
        return ValueError(
            f"The process that runs the study's commands ended (status {status}; -9 is often a "
            "lack of memory). Nothing finished is lost. Run the same command again to go on."
        )
