"""How long a study will go on, from how long its commands took so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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

    def left(
        self, waiting: Work, running: Sequence[tuple[Work, float, float | None]], devices: int
    ) -> tuple[float, bool]:
        """Return the seconds that are left, and whether all work is counted in them.

        What nothing like it has ended or says how far it is does not count.

        Args:
            waiting: work that no command does yet.
            running: of each command that runs: its work, device seconds so far, and the share of
                it that is done, as far as it says.
            devices: that work at a time.
        """
        rates = {kind: self._seconds[kind] / done for kind, done in self._done.items() if done}
        for work, spent, share in running:
            for kind, amount in work.items():
                if share and amount:
                    rates.setdefault(kind, spent / share / amount)
        seconds = sum(rates.get(kind, 0.0) * amount for kind, amount in waiting.items())
        for work, spent, share in running:
            whole = sum(rates.get(kind, 0.0) * amount for kind, amount in work.items())
            seconds += max((spent / share if share else whole) - spent, 0.0)
        kinds = [
            kind for work in (waiting, *(w for w, *_ in running)) for kind in work if work[kind]
        ]
        return seconds / devices, all(kind in rates for kind in kinds)
