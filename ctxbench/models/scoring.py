"""Scoring tokens: exact log-probabilities, yielded as soon as they are known."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ctxbench.models.engine import Engine
from ctxbench.models.finite import check_scores
from ctxbench.models.output_head import OutputHead
from ctxbench.models.prefix_cache import PrefixCache
from ctxbench.models.requests import ScoringRequest
from ctxbench.models.schedule import branch_points


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
    """Scores requests on an engine."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.head = OutputHead(engine.model)

    def score(
        self, requests: Sequence[ScoringRequest], wanted: Collection[int] | None = None
    ) -> Iterator[tuple[int, Score]]:
        """Score requests, in an order of its own choice.

        Args:
            requests: to score.
            wanted: numbers of the requests to score, default all. The others shape batches and
                pieces alone, so that a score has the same bits whatever was known before.

        Yields:
            Number and score of each wanted request; nothing else keeps the score.
        """
        wanted = range(len(requests)) if wanted is None else wanted
        if not wanted:
            return
        fed = [request.fed for request in requests]
        schedule = self.engine.schedule(fed, [request.final_length for request in requests])
        schedule.log()
        for group in schedule.groups:
            # the token before the first scored one is fed again: its hidden state is wanted
            limits = [requests[i].first - 1 for i in group]
            yield from self.engine.run_group(
                group,
                branch_points([fed[i] for i in group], limits),
                wanted,
                lambda i, cache, cuts: self._score_over(cache, requests[i], cuts),
            )
        yield from self.engine.run_batches(
            schedule.alone,
            [len(ids) for ids in fed],
            wanted,
            lambda numbers: self._score_batch([requests[i] for i in numbers]),
        )

    @torch.no_grad()
    def _score_over(
        self, cache: PrefixCache, request: ScoringRequest, cuts: Sequence[int]
    ) -> Score:
        """Score one request over a cache that may hold a beginning of it."""
        engine = self.engine
        keep = cache.shared_with(request.fed, cuts, request.first - 1)
        with engine.method.begin_request(engine.model, [request.final_length]):
            hidden = cache.feed(request.fed, keep, cuts)
        return self._score_hidden(hidden[request.first - 1 - keep :], request)

    @torch.no_grad()
    def _score_batch(self, requests: list[ScoringRequest]) -> list[Score]:
        """Score one padded batch; a single long row is fed in chunks."""
        engine = self.engine
        width = max(len(request.fed) for request in requests)
        chunk = engine.budget.chunk(len(requests), width)
        lengths = [request.final_length for request in requests]
        with engine.method.begin_request(engine.model, lengths):
            if len(requests) == 1 and chunk < width:
                hidden = [PrefixCache(engine.model, engine.budget).feed(requests[0].fed, 0)]
            else:
                ids = torch.zeros((len(requests), width), dtype=torch.long)
                for row, request in enumerate(requests):
                    ids[row, : len(request.fed)] = torch.tensor(request.fed)
                # Padding stands on the right, where causal attention cannot see it.
                hidden = engine.model.base_model(
                    ids.to(engine.model.device), use_cache=False
                ).last_hidden_state
        return [
            self._score_hidden(row[request.first - 1 : len(request.fed)], request)
            for row, request in zip(hidden, requests, strict=True)
        ]

    def _score_hidden(self, hidden: torch.Tensor, request: ScoringRequest) -> Score:
        """Score a request's last tokens from the hidden states `[scored, hidden_size]` before."""
        targets = torch.tensor(request.ids[request.first :], device=hidden.device)
        assert len(hidden) == len(targets)
        if self.head.exact:
            logprobs, greedy = self.head.logprobs(hidden, targets)
        else:
            head: Any = self.engine.model.get_output_embeddings()
            logits = head(hidden).float()
            logprobs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
            greedy = logits.argmax(-1) == targets
        logprobs = logprobs.cpu()
        check_scores(logprobs, request, self.engine.model.dtype)
        return Score(logprobs, bool(greedy.all()))
