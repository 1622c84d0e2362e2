"""How long a study will go on, from how long its commands took so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ctxbench.core.protocol import Column

TRAIN, READ = "train", "read"
Work = Mapping[str, float]
"""What a command does, by kind: trainings, and tokens to read."""


def tokens_to_read(columns: Iterable[Column], length: int) -> float:
    """Return the tokens of some columns' prompts; of those without a number, one prompt's.

    Args:
        columns: to measure.
        length: of the prompts of columns without one, tokens.
    """
    return sum(max(column.requests, 1) * (column.length or length) for column in columns)


@dataclass
class TimeLeft:
    """Device seconds per piece of work, learned from the commands that ended."""

    _seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _done: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def learn(self, work: Work, seconds: float) -> None:
        """Take in a command that did one kind of work in so many device seconds."""
        for kind, amount in work.items():
            self._seconds[kind] += seconds
            self._done[kind] += amount

    def of(self, work: Work) -> float | None:
        """Return the device seconds of some work; None before one of its kind has ended."""
        if any(amount and not self._done[kind] for kind, amount in work.items()):
            return None
        return sum(
            amount * self._seconds[kind] / self._done[kind]
            for kind, amount in work.items()
            if amount
        )

    def left(
        self, waiting: Work, running: Iterable[tuple[Work, float]], devices: int
    ) -> float | None:
        """Return the seconds that are left; None before anything like it has ended.

        Args:
            waiting: work that no command does yet.
            running: the work of each command that runs, and its device seconds so far.
            devices: that work at a time.
        """
        parts = [self.of(waiting)]
        for work, spent in running:
            whole = self.of(work)
            parts.append(None if whole is None else max(whole - spent, 0.0))
        return None if None in parts else sum(filter(None, parts)) / devices
