"""Which requests share their beginning, and a cache that goes back to it."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

log = logging.getLogger(__name__)

MIN_SAVING = 0.2
"""Share of a run's tokens that must be saved for it to be worth running one by one."""


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
class SharingPlan:
    """How requests are run.

    Attributes:
        runs: each a list of request numbers in trie order that share prefixes.
        alone: request numbers to batch, longest first.
        tokens: to compute in all, without sharing.
        saved: of these, not computed because they are shared.
    """

    runs: list[list[int]] = field(default_factory=list)
    alone: list[int] = field(default_factory=list)
    tokens: int = 0
    saved: int = 0

    def tell(self) -> None:
        """Say how much is shared, if anything is."""
        shared = sum(map(len, self.runs))
        if shared:
            log.info(
                "%d of %d requests share prefixes: %.0f %% of %d tokens are not computed again",
                shared,
                shared + len(self.alone),
                100 * self.saved / max(self.tokens, 1),
                self.tokens,
            )


def plan_sharing(
    sequences: Sequence[Sequence[int]], keys: Sequence[Hashable | None]
) -> SharingPlan:
    """Plan which requests share the keys and values of their common beginning.

    Args:
        sequences: what each request feeds, tokens.
        keys: `reuse_key` of each request; None never shares.

    Requests of one key are put in the order of a token trie; neighbours that share enough of their
    tokens form a run.
    """
    plan = SharingPlan(tokens=sum(map(len, sequences)))
    rank = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    order = sorted(range(len(sequences)), key=lambda i: (rank[keys[i]], list(sequences[i])))
    for key, members in groupby(order, key=lambda i: keys[i]):
        numbers = list(members)
        if key is None:
            plan.alone += numbers
        else:
            _split_runs(plan, sequences, numbers)
    plan.alone.sort(key=lambda i: (-len(sequences[i]), i))
    return plan


def _split_runs(plan: SharingPlan, sequences: Sequence[Sequence[int]], numbers: list[int]) -> None:
    run = [numbers[0]]
    saved = 0
    for before, after in zip(numbers, [*numbers[1:], None], strict=True):
        shared = common_prefix(sequences[before], sequences[after]) if after is not None else 0
        if after is not None and shared >= MIN_SAVING * len(sequences[after]):
            run.append(after)
            saved += shared
            continue
        if len(run) > 1:
            plan.runs.append(run)
            plan.saved += saved
        else:
            plan.alone += run
        run, saved = [after] if after is not None else [], 0


def branch_points(sequences: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
    """Return where each sequence of a run is cut into the pieces in which it is fed.

    A cut is where a request leaves the path of the one before it. Cutting every path at all cuts
    that lie on it makes what is cached a function of the run alone: an answer has the same bits
    whichever requests were answered by an earlier, killed process. Each piece is fed once.

    Args:
        sequences: of the run, in trie order, tokens.
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


def keep_prefix(cache: Any, length: int) -> bool:
    """Cut a cache back to its first `length` tokens.

    Returns:
        Whether it could be done: every layer must hold keys and values by position.
    """
    excess = cache.get_seq_length() - length
    if excess == 0:
        return True
    if excess < 0 or not all(can_cut(layer) for layer in cache.layers):
        return False
    for layer in cache.layers:
        if layer.is_initialized:
            layer.crop(-excess)
    return True


def can_cut(layer: Any) -> bool:
    """Return whether a cache layer can forget its newest tokens."""
    return not getattr(layer, "is_sliding", False) and hasattr(layer, "crop")
