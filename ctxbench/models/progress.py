"""Progress of an evaluation: one bar per task, with tokens, rate and time left."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

Answer = TypeVar("Answer")


def with_progress(
    answers: Iterable[tuple[int, Answer]],
    sizes: Mapping[int, tuple[str, int]],
    verb: str,
    *,
    show: bool,
) -> Iterator[tuple[int, Answer]]:
    """Pass answers on, showing bars per task on a terminal.

    Args:
        answers: number and answer of each request as they are computed.
        sizes: number of each request -> its task and tokens.
        verb: shown before the task's name.
        show: whether to show at all.
    """
    if not (show and sizes and sys.stderr.isatty()):
        yield from answers
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    totals: Counter[str] = Counter()
    for task, tokens in sizes.values():
        totals[task] += tokens
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bars:
        bar_of = {
            task: bars.add_task(f"{verb} {task}", total=total, rate="")
            for task, total in totals.items()
        }
        for number, answer in answers:
            yield number, answer
            task, tokens = sizes[number]
            bar = bar_of[task]
            bars.advance(bar, tokens)
            speed = bars.tasks[bar].speed
            bars.update(bar, rate=f"{speed:,.0f} tokens/s" if speed else "")
