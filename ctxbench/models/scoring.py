"""Scoring tokens with an extended model: exact sums, bounded memory, shared prefixes.

Knows models, methods and tokens; nothing of lm-eval.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ctxbench.methods.base import Method
from ctxbench.models.head import Head
from ctxbench.models.memory import Budget
from ctxbench.models.prefix import (
    SharingPlan,
    branch_points,
    common_prefix,
    keep_prefix,
    plan_sharing,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Request:
    """Tokens of which the last ones are scored.

    Attributes:
        ids: context and continuation.
        first: index of the first scored token; at least 1, it is predicted from the one before.
        length: final length that sets the frequencies; default `len(ids)`.
    """

    ids: Sequence[int]
    first: int
    length: int | None = None

    @property
    def fed(self) -> Sequence[int]:
        """What the model reads: all but the last token."""
        return self.ids[:-1]

    @property
    def final_length(self) -> int:
        """Length that sets the frequencies, tokens."""
        return self.length or len(self.ids)


@dataclass(frozen=True)
class Score:
    """Log-probabilities of a request's scored tokens.

    Attributes:
        logprobs: float32 `[scored]`, natural logarithms, in order.
        greedy: every scored token was the most likely one.
    """

    logprobs: torch.Tensor
    greedy: bool

    @property
    def total(self) -> float:
        """Their sum, in float64."""
        return float(self.logprobs.double().sum())


class Scorer:
    """Scores requests on one model with one method.

    Args:
        model: extended by `method`, in evaluation mode.
        method: the resolved method.
        batch_size: rows of a padded batch at most; None: as memory allows.
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
        self.config = model.config
        self.batch_size = batch_size
        self.share_prefixes = share_prefixes
        self.head = Head(model)
        self.budget = Budget(model, max_batch_size, prefill_chunk)

    # ------------------------------------------------------------------ plans

    def plan(self, fed: Sequence[Sequence[int]], lengths: Sequence[int]) -> SharingPlan:
        """Plan which requests share prefixes and which are batched."""
        if self.share_prefixes and self.method.cacheable and len(fed) > 1:
            keys = [self.method.reuse_key(self.config, length) for length in lengths]
        else:
            keys = [None] * len(fed)
        return plan_sharing(fed, keys)

    def batches(self, numbers: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
        """Cut request numbers, longest first, into batches that fit memory."""
        at = 0
        while at < len(numbers):
            rows = self.batch_size or self.budget.rows(sizes[numbers[at]])
            rows = min(rows, self.budget.row_limit)
            yield list(numbers[at : at + rows])
            at += rows

    def run_batches(
        self,
        batches: Iterable[list[int]],
        answer: Callable[[list[int]], Sequence[Any]],
        done: Callable[[int, Any], None],
        wanted: Collection[int],
    ) -> None:
        """Run batches of request numbers, halving one that does not fit memory.

        Args:
            batches: those without a wanted number are left out.
            answer: computes a batch; returns an answer for each number.
            done: called with the number and the answer of each wanted request.
            wanted: numbers.
        """
        pending = [numbers for numbers in batches if any(i in wanted for i in numbers)]
        while pending:
            numbers = pending.pop(0)
            try:
                found = answer(numbers)
            except torch.OutOfMemoryError:
                self.budget.shrink(len(numbers))  # raises when a single row does not fit
                half = max(1, len(numbers) // 2)
                pending[:0] = [part for part in (numbers[:half], numbers[half:]) if part]
                continue
            for number, one in zip(numbers, found, strict=True):
                if number in wanted:
                    done(number, one)

    # ---------------------------------------------------------------- scoring

    @torch.no_grad()
    def score(
        self,
        requests: Sequence[Request],
        done: Callable[[int, Score], None],
        wanted: Collection[int] | None = None,
    ) -> None:
        """Score requests, in an order of its own choice.

        Args:
            requests: to score.
            done: called with the number and the score of each request as soon as it is known;
                nothing else keeps the score.
            wanted: numbers of the requests to score, default all. The others shape batches and
                pieces alone, so that a score has the same bits whatever was known before.
        """
        wanted = range(len(requests)) if wanted is None else wanted
        if not wanted:
            return
        fed = [request.fed for request in requests]
        plan = self.plan(fed, [request.final_length for request in requests])
        plan.tell()

        for run in plan.runs:
            cuts = branch_points([fed[i] for i in run], [requests[i].first - 1 for i in run])
            left = {i: at for i, at in zip(run, cuts, strict=True) if i in wanted}
            while left:
                try:
                    for number, score in self._score_run(requests, dict(left)):
                        done(number, score)
                        del left[number]
                except torch.OutOfMemoryError:
                    self.budget.shrink(1)  # raises when small chunks do not fit either
        self.run_batches(
            self.batches(plan.alone, [len(ids) for ids in fed]),
            lambda numbers: self._score_batch([requests[i] for i in numbers]),
            done,
            wanted,
        )

    def scores(self, requests: Sequence[Request]) -> list[Score]:
        """Return the scores of a few requests, in their order."""
        found: dict[int, Score] = {}
        self.score(requests, found.__setitem__)
        return [found[number] for number in range(len(requests))]

    def _score_run(
        self, requests: Sequence[Request], run: Mapping[int, Sequence[int]]
    ) -> Iterator[tuple[int, Score]]:
        """Score requests (number -> cuts, in trie order) over one cache, cut back as they share."""
        prefix = SharedPrefix(self)
        for number, cuts in run.items():
            request = requests[number]
            # the token before the first scored one is fed again: its hidden state is wanted
            keep = prefix.shared_with(request.fed, cuts, request.first - 1)
            with self.method.begin_request(self.model, [request.final_length]):
                hidden = prefix.feed(request.fed, keep, cuts)
            yield number, self._finish(hidden[request.first - 1 - keep :], request)

    def _score_batch(self, requests: list[Request]) -> list[Score]:
        """Score one padded batch; a single long row is fed in chunks."""
        lengths = [request.final_length for request in requests]
        chunk = self.budget.chunk(len(requests), max(len(r.fed) for r in requests))
        with self.method.begin_request(self.model, lengths):
            if len(requests) == 1 and chunk < len(requests[0].fed):
                hidden = [SharedPrefix(self).feed(requests[0].fed, 0)]
            else:
                width = max(len(request.fed) for request in requests)
                ids = torch.zeros((len(requests), width), dtype=torch.long)
                for row, request in enumerate(requests):
                    ids[row, : len(request.fed)] = torch.tensor(request.fed)
                # Padding stands on the right, where causal attention cannot see it.
                hidden = self.model.base_model(
                    ids.to(self.model.device), use_cache=False
                ).last_hidden_state
        return [
            self._finish(row[request.first - 1 : len(request.fed)], request)
            for row, request in zip(hidden, requests, strict=True)
        ]

    def _finish(self, hidden: torch.Tensor, request: Request) -> Score:
        targets = torch.tensor(request.ids[request.first :], device=hidden.device)
        assert len(hidden) == len(targets)
        if self.head.exact:
            logprobs, greedy = self.head.logprobs(hidden, targets)
        else:
            head: Any = self.model.get_output_embeddings()
            logits = head(hidden).float()
            logprobs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
            greedy = logits.argmax(-1) == targets
        return Score(logprobs.cpu(), bool(greedy.all()))


class SharedPrefix:
    """One growing key-value cache over requests in trie order.

    Attributes:
        ids: the user's tokens that are cached.
        cache: their keys and values.
    """

    def __init__(self, scorer: Scorer):
        self.scorer = scorer
        self.ids: list[int] = []
        self.cache: Any = None

    def shared_with(self, ids: Sequence[int], cuts: Sequence[int], limit: int) -> int:
        """Return the last of the cuts up to which `ids` are cached, at most `limit`."""
        shared = min(common_prefix(self.ids, list(ids)), limit)
        return max((cut for cut in cuts if cut <= shared), default=0)

    def feed(self, ids: Sequence[int], keep: int, cuts: Sequence[int] = ()) -> torch.Tensor:
        """Cut the cache back to `keep` tokens, feed the rest of `ids` in pieces.

        Args:
            ids: all tokens.
            keep: how many of them stay cached.
            cuts: where pieces end, ascending; of what is long besides, memory decides.

        Returns:
            Last hidden states `[len(ids) - keep, hidden_size]` of the user's tokens.
        """
        from transformers import DynamicCache

        scorer = self.scorer
        if self.cache is None or not keep_prefix(self.cache, keep):
            self.cache, keep_cached = DynamicCache(config=scorer.config), 0
        else:
            keep_cached = keep
        self.ids = list(ids)
        device = scorer.model.device
        step = scorer.budget.chunk(1, len(ids))
        parts = []
        start = keep_cached
        for cut in [*(cut for cut in cuts if cut > start), len(ids)]:
            while start < cut:
                # a last token alone would be decoding, which Landmark computes otherwise
                end = start + step if cut - start - step > 1 else cut
                piece = torch.tensor([self.ids[start:end]], device=device)
                start = end
                out = scorer.model.base_model(piece, past_key_values=self.cache, use_cache=True)
                parts.append(out.last_hidden_state[0])
        if not parts:  # all of it is cached
            return torch.empty(0, scorer.config.hidden_size, device=device)
        return torch.cat(parts)[keep - keep_cached :]
