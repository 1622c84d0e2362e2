"""Which requests share their beginning, in which order they run, and where they are cut."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

log = logging.getLogger(__name__)

MIN_SAVING = 0.2
"""Share of a request's tokens that must be saved for it to be worth running one by one."""


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many leading tokens two sequences share."""
    shortest = min(len(first), len(second))
    if first[:shortest] == second[:shortest]:
        return shortest
    low, high = 0, shortest  # equal up to low, not up to high
    while high - low > 1:
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low


@dataclass
class Schedule:
    """How requests are run.

    Attributes:
        groups: each a list of request numbers in trie order that share prefixes.
        alone: request numbers to batch, longest first.
        tokens: to compute in all, without sharing.
        saved: of these, not computed because they are shared.
    """

    groups: list[list[int]] = field(default_factory=list)
    alone: list[int] = field(default_factory=list)
    tokens: int = 0
    saved: int = 0

    def log(self) -> None:
        """Log how much is shared, if anything is."""
        shared = sum(map(len, self.groups))
        if shared:
            log.info(
                "%d of %d requests share prefixes: %.0f %% of %d tokens are not computed again",
                shared,
                shared + len(self.alone),
                100 * self.saved / max(self.tokens, 1),
                self.tokens,
            )


def schedule(sequences: Sequence[Sequence[int]], keys: Sequence[Hashable | None]) -> Schedule:
    """Decide which requests share the keys and values of their common beginning.

    Args:
        sequences: tokens of each request.
        keys: `reuse_key` of each request; None never shares.

    Requests of one key are put in the order of a token trie; neighbours that share enough of their
    tokens form a group.
    """
    made = Schedule(tokens=sum(map(len, sequences)))
    rank = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    order = sorted(range(len(sequences)), key=lambda i: (rank[keys[i]], list(sequences[i])))
    for key, members in groupby(order, key=lambda i: keys[i]):
        numbers = list(members)
        if key is None:
            made.alone += numbers
        else:
            _add_groups(made, sequences, numbers)
    made.alone.sort(key=lambda i: (-len(sequences[i]), i))
    return made


def _add_groups(made: Schedule, sequences: Sequence[Sequence[int]], numbers: list[int]) -> None:
    """Cut request numbers in trie order into groups of neighbours."""
    group, saved = numbers[:1], 0
    for before, after in zip(numbers, [*numbers[1:], None], strict=True):
        shared = common_prefix(sequences[before], sequences[after]) if after is not None else 0
        if after is not None and shared >= MIN_SAVING * len(sequences[after]):
            group.append(after)
            saved += shared
            continue
        if len(group) > 1:
            made.groups.append(group)
            made.saved += saved
        else:
            made.alone += group
        group, saved = [after] if after is not None else [], 0


def branch_points(sequences: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
    """Return where each sequence of a group is cut into the pieces in which it is fed.

    A cut is where a request leaves the path of the one before it. Cutting every path at all cuts
    that lie on it makes what is cached a function of the group alone: an answer has the same bits
    whichever requests were answered by an earlier, killed process. Each piece is fed once.

    Args:
        sequences: of the group, in trie order, tokens.
        limits: how much of each may come from the cache.

    Returns:
        Of each sequence, the ascending cuts.
    """
    shared = [0, *map(common_prefix, sequences, sequences[1:])]
    cuts = [min(found, limit) for found, limit in zip(shared, limits, strict=True)]
    found: list[set[int]] = []
    before: set[int] = set()
    for number, cut in enumerate(cuts):
        before = {c for c in before if c <= shared[number]} | {cut}
        found.append(set(before))
    after: set[int] = set()
    for number in range(len(cuts) - 1, 0, -1):
        after = {c for c in after | {cuts[number]} if c <= shared[number]}
        found[number - 1] |= after
    return [sorted(points - {0}) for points in found]
