"""Progress of an evaluation: one bar per task, with tokens, rate and time left."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable


class Progress:
    """Bars per task on a terminal; silent elsewhere and on other ranks.

    Use as a context manager; call `advance(task, tokens)` for each finished request.

    Args:
        work: (task name, tokens to process) of every request.
        verb: shown before the task's name.
        show: whether to show at all.
    """

    def __init__(self, work: Iterable[tuple[str, int]], verb: str, *, show: bool = True):
        self.totals: Counter[str] = Counter()
        for task, tokens in work:
            self.totals[task] += tokens
        self.verb = verb
        self.show = show and sys.stderr.isatty() and bool(self.totals)

    def __enter__(self) -> Progress:
        if self.show:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            self.bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens"),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.bars.start()
            self.ids = {
                task: self.bars.add_task(f"{self.verb} {task}", total=total, rate="")
                for task, total in self.totals.items()
            }
        return self

    def advance(self, task: str, tokens: int) -> None:
        """Count a finished request."""
        if not self.show:
            return
        number = self.ids[task]
        self.bars.advance(number, tokens)
        speed = self.bars.tasks[number].speed
        self.bars.update(number, rate=f"{speed:,.0f} tokens/s" if speed else "")

    def __exit__(self, *exc) -> None:
        if self.show:
            self.bars.stop()
