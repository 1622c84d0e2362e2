"""What a study shows while it runs: a live display in a terminal, and a line a minute.

The lines go to `study.log` in the study's folder, and to standard error where it is no terminal.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live

LOG = "study.log"
_TAIL = 4096  # bytes of a command's log in which its last step is looked for


@dataclass(frozen=True)
class Running:
    """A command that runs.

    Attributes:
        what: it does.
        log: file of what it prints.
        began: moment, in seconds of the monotonic clock.
    """

    what: str
    log: Path
    began: float

    def line(self, now: float) -> str:
        """Return what is shown of it: its time, and a training's last step."""
        step = _last_step(self.log)
        return f"{self.what}, {duration(now - self.began)}" + (f": {step}" if step else "")


@dataclass
class State:
    """Where a study is.

    Attributes:
        total: cells of the chosen rows.
        done: of them, finished or failed.
        failed: of them, failed.
        running: commands, in the order in which they began.
        left: seconds, as far as known.
        left_whole: whether that counts all that is left.
        left_at: moment of that estimate.
        last: result.
    """

    total: int = 0
    done: int = 0
    failed: int = 0
    running: Sequence[Running] = ()
    left: float = 0.0
    left_whole: bool = False
    left_at: float = 0.0
    last: str = ""

    def summary(self, now: float) -> str:
        """Return cells and time left in words."""
        failed = f", {self.failed} failed" if self.failed else ""
        left = max(self.left - (now - self.left_at), 0.0)
        said = f"{'about' if self.left_whole else 'more than'} {duration(left)} left"
        if not (left or self.left_whole):
            said = "time left not known yet"
        return f"{self.done}/{self.total} cells{failed}, {said}"

    def line(self, now: float) -> str:
        """Return everything in one line."""
        runs = "; ".join(running.line(now) for running in self.running)
        last = f"; last: {self.last}" if self.last else ""
        return f"{self.summary(now)}; now: {runs or 'nothing'}{last}"


@dataclass
class Display:
    """Shows the state of a study until it is left; a context manager.

    Attributes:
        log: file that lines are added to; None: none is written, and nothing shown.
        console: to show on; standard error by default.
        every: seconds between lines.
        state: set by who runs the study.
        refresh: called before each line, to bring the state up to date.
    """

    log: Path | None = None
    console: Console | None = None
    every: float = 60.0
    state: State = field(default_factory=State)
    refresh: Callable[[], None] = lambda: None
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _live: Live | None = None

    def __enter__(self) -> Display:
        """Begin to show."""
        if self.log is None:
            return self
        from rich.console import Console
        from rich.live import Live

        self.console = self.console or Console(stderr=True, highlight=False)
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self._picture, console=self.console, refresh_per_second=2,
                transient=True,
            )  # fmt: skip
            self._live.start()
        self._threads = [threading.Thread(target=self._tell, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        """Show nothing more."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Write a line to the log and show it, above what is live."""
        if self.console is not None:
            self._write(text)
            self.console.print(text, markup=False, soft_wrap=True)

    def _tell(self) -> None:
        """Write a line every so many seconds; in a terminal it is live already."""
        while not self._ended.wait(self.every):
            with contextlib.suppress(OSError):  # a cell that is just being written: next time
                self.refresh()
            tell = self.say if self._live is None else self._write
            tell(self.state.line(time.monotonic()))

    def _write(self, text: str) -> None:
        """Add a line to the log."""
        if self.log is not None:
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            with open(self.log, "a", encoding="utf-8") as stream:
                stream.write(f"{now} {text}\n")

    def _picture(self) -> Group:
        """Return what is live: a bar, what runs now, the last result."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        now, state = time.monotonic(), self.state
        bar = ProgressBar(total=max(state.total, 1), completed=state.done, width=60)
        lines = [Text(state.summary(now), style="bold"), bar]
        lines += [Text(f"  now   {running.line(now)}") for running in state.running]
        lines += [Text(f"  last  {state.last}")] if state.last else []
        return Group(*lines)


def duration(seconds: float) -> str:
    """Return a time as `45 s`, `12 min` or `3 h 5 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def share_done(log: Path) -> float | None:
    """Return the share of a training's steps that are done by its log; None: it has none."""
    step = re.match(r"step (\d+)/(\d+)", _last_step(log))
    return int(step[1]) / int(step[2]) if step and int(step[2]) else None


def _last_step(log: Path) -> str:
    """Return the last line of a training's progress, empty where there is none."""
    try:
        with open(log, "rb") as stream:
            stream.seek(max(stream.seek(0, 2) - _TAIL, 0))
            tail = stream.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    steps = [line for line in tail.splitlines() if line.startswith("step ")]
    return " ".join(steps[-1].split()) if steps else ""
