"""Generating: pinned lengths, shared prefixes, bounded batches; yielded as soon as known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch

from ctxbench.core.compat.transformers import check_for_generation
from ctxbench.models.engine import Engine
from ctxbench.models.finite import FiniteLogits
from ctxbench.models.generation_settings import generation_config, without_own_settings
from ctxbench.models.prefix_cache import PrefixCache
from ctxbench.models.requests import GenerationRequest
from ctxbench.models.schedule import branch_points


class Generator:
    """Continues prompts on an engine.

    Args:
        engine: runs them.
        pad_token: id that fills a batch on the left.
    """

    def __init__(self, engine: Engine, pad_token: int):
        check_for_generation()
        self.engine = engine
        self.pad_token = pad_token

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        options: dict[str, Any],
        stopping: Callable[[Sequence[GenerationRequest], int], Any],
        wanted: Collection[int] | None = None,
    ) -> Iterator[tuple[int, list[int]]]:
        """Continue prompts, in an order of its own choice.

        Args:
            requests: to continue.
            options: all that decides how: `GenerationSettings.options`.
            stopping: (requests of a batch, prompt width) -> stopping criteria.
            wanted: numbers of the requests to continue, default all; see `Scorer.score`.

        Yields:
            Number and new tokens of each wanted request.
        """
        wanted = range(len(requests)) if wanted is None else wanted
        if not wanted:
            return
        engine = self.engine
        lengths = [request.final_length for request in requests]
        one_path = not options.get("do_sample") and options.get("num_beams", 1) == 1
        schedule = engine.schedule([r.ids for r in requests], lengths, share=one_path)
        schedule.log()
        for group in schedule.groups:
            fed = [requests[i].ids[:-1] for i in group]
            yield from engine.run_group(
                group,
                branch_points(fed, [len(ids) for ids in fed]),
                wanted,
                lambda i, cache, cuts: self._continue(cache, requests[i], cuts, options, stopping),
            )
        yield from engine.run_batches(
            schedule.alone,
            lengths,
            wanted,
            lambda numbers: self._continue_batch([requests[i] for i in numbers], options, stopping),
        )

    @torch.no_grad()
    def _continue(
        self, cache: PrefixCache, request: GenerationRequest, cuts: Sequence[int], options, stopping
    ) -> list[int]:
        """Continue one prompt over a cache that may hold a beginning of it."""
        engine = self.engine
        with engine.method.begin_request(engine.model, [request.final_length]):
            fed = request.ids[:-1]  # the last token is left to generate, which needs its logits
            cache.feed(fed, cache.shared_with(fed, cuts, len(fed)), cuts)
            return self._run([request], options, stopping, past=cache.past)[0]

    @torch.no_grad()
    def _continue_batch(
        self, requests: list[GenerationRequest], options, stopping
    ) -> list[list[int]]:
        """Continue one padded batch; a single long prompt is fed in chunks."""
        engine, first = self.engine, requests[0]
        width = max(len(request.ids) for request in requests)
        too_long = engine.budget.chunk(1, width) < width  # to feed at once
        cacheable = engine.method.cacheable
        continues = engine.method.reuse_key(engine.model.config, first.final_length) is not None
        if len(requests) == 1 and too_long and continues and cacheable:
            cache = PrefixCache(engine.model, engine.budget)
            return [self._continue(cache, first, (), options, stopping)]
        lengths = [request.final_length for request in requests]
        with engine.method.begin_request(engine.model, lengths):
            return self._run(requests, options, stopping, use_cache=cacheable)

    def _run(
        self,
        requests: list[GenerationRequest],
        options,
        stopping,
        past: Any = None,
        use_cache: bool = True,
    ) -> list[list[int]]:
        """Call `model.generate` on prompts padded on the left; return each one's new tokens."""
        model: Any = self.engine.model
        width = max(len(request.ids) for request in requests)
        ids = torch.full((len(requests), width), self.pad_token, dtype=torch.long)
        mask = torch.zeros((len(requests), width), dtype=torch.long)
        for row, request in enumerate(requests):
            ids[row, width - len(request.ids) :] = torch.tensor(request.ids)
            mask[row, width - len(request.ids) :] = 1
        settings = generation_config(options, pad_token_id=self.pad_token, use_cache=use_cache)
        with without_own_settings(model):
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=settings,
                logits_processor=[FiniteLogits(requests, width, model.dtype)],
                stopping_criteria=stopping(requests, width),
                **({} if past is None else {"past_key_values": past}),
            )
        return [row[width:].tolist() for row in out]
