"""One model with one method and a memory budget: how requests are grouped, batched and retried.

Knows models, methods and tokens; nothing of lm-eval. Scoring and generating run on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

from ctxbench.methods.base import Method
from ctxbench.models.memory import MemoryBudget
from ctxbench.models.prefix_cache import PrefixCache
from ctxbench.models.schedule import Schedule, schedule

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Answer = TypeVar("Answer")


class Engine:
    """Runs requests on one model with one method.

    Args:
        model: extended, in evaluation mode.
        method: of the model.
        batch_size: rows computed at once; None: as many as fit.
        max_batch_size: bound on that choice.
        prefill_chunk: tokens fed at once; None: as memory allows.
        share_prefixes: reuse keys and values of common beginnings where the method allows.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        method: Method,
        *,
        batch_size: int | None = 1,
        max_batch_size: int = 64,
        prefill_chunk: int | None = None,
        share_prefixes: bool = True,
    ):
        self.model = model
        self.method = method
        self.batch_size = batch_size
        self.share_prefixes = share_prefixes
        self.budget = MemoryBudget(model, max_batch_size, prefill_chunk)

    def schedule(
        self, sequences: Sequence[Sequence[int]], lengths: Sequence[int], *, share: bool = True
    ) -> Schedule:
        """Decide which requests share prefixes and which are batched.

        Args:
            sequences: tokens of each request.
            lengths: final length of each.
            share: False: none may.
        """
        if share and self.share_prefixes and self.method.cacheable and len(sequences) > 1:
            keys = [self.method.reuse_key(self.model.config, length) for length in lengths]
        else:
            keys = [None] * len(sequences)
        return schedule(sequences, keys)

    def run_group(
        self,
        group: Sequence[int],
        cuts: Sequence[Sequence[int]],
        wanted: Collection[int],
        compute: Callable[[int, PrefixCache, Sequence[int]], Answer],
    ) -> Iterator[tuple[int, Answer]]:
        """Run requests that share prefixes over one cache; out of memory, over a new one.

        Args:
            group: request numbers in trie order.
            cuts: `branch_points` of each.
            wanted: request numbers to run.
            compute: (number, cache, cuts) -> answer.

        Yields:
            Number and answer of each wanted request.
        """
        cache = PrefixCache(self.model, self.budget)
        for number, points in zip(group, cuts, strict=True):
            while number in wanted:
                try:
                    answer = compute(number, cache, points)
                except torch.OutOfMemoryError:
                    self.budget.shrink(1)  # raises when small chunks do not fit either
                    cache = PrefixCache(self.model, self.budget)
                    continue
                yield number, answer
                break

    def run_batches(
        self,
        numbers: Sequence[int],
        sizes: Sequence[int],
        wanted: Collection[int],
        compute: Callable[[list[int]], Sequence[Answer]],
    ) -> Iterator[tuple[int, Answer]]:
        """Run requests in batches that fit memory, halving one that does not.

        Args:
            numbers: of requests, longest first.
            sizes: tokens of every request.
            wanted: request numbers to run; a batch without one is left out.
            compute: request numbers -> an answer for each.

        Yields:
            Number and answer of each wanted request.
        """
        pending = [
            batch for batch in self._batches(numbers, sizes) if any(i in wanted for i in batch)
        ]
        while pending:
            batch = pending.pop(0)
            try:
                answers = compute(batch)
            except torch.OutOfMemoryError:
                self.budget.shrink(len(batch))  # raises when a single row does not fit
                half = max(1, len(batch) // 2)
                pending[:0] = [part for part in (batch[:half], batch[half:]) if part]
                continue
            yield from (pair for pair in zip(batch, answers, strict=True) if pair[0] in wanted)

    def _batches(self, numbers: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
        """Cut request numbers, longest first, into batches that fit memory."""
        at = 0
        while at < len(numbers):
            size = sizes[numbers[at]]
            rows = min(self.batch_size or self.budget.rows(size), self.budget.row_limit)
            if self.budget.prefill_chunk and size > self.budget.prefill_chunk:
                rows = 1  # only a row of its own is fed in chunks
            yield list(numbers[at : at + rows])
            at += rows
