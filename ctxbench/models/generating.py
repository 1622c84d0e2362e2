"""Generating with an extended model: pinned lengths, shared prefixes, bounded batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ctxbench.models.prefix import branch_points
from ctxbench.models.scoring import Scorer, SharedPrefix


@dataclass(frozen=True)
class Prompt:
    """A prompt to continue.

    Attributes:
        ids: its tokens.
        length: final length that sets the frequencies: prompt and new tokens.
    """

    ids: Sequence[int]
    length: int


class Generator:
    """Continues prompts on one model with one method.

    Args:
        scorer: holds the model, the method, the memory budget.
        pad_token: id that fills a batch on the left.
    """

    def __init__(self, scorer: Scorer, pad_token: int):
        self.scorer = scorer
        self.pad_token = pad_token

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        options: dict[str, Any],
        stopping: Callable[[int, int], Any],
        done: Callable[[int, list[int]], None],
        wanted: Collection[int] | None = None,
    ) -> None:
        """Continue prompts.

        Args:
            prompts: to continue.
            options: for `model.generate`: `max_new_tokens`, sampling.
            stopping: (prompt width, rows) -> stopping criteria.
            done: called with the number and the new tokens of each prompt as soon as known.
            wanted: numbers of the prompts to continue, default all; see `Scorer.score`.
        """
        wanted = range(len(prompts)) if wanted is None else wanted
        if not wanted:
            return
        scorer = self.scorer
        plan = scorer.plan([prompt.ids for prompt in prompts], [p.length for p in prompts])
        if options.get("do_sample") or options.get("num_beams", 1) > 1:
            plan.alone = sorted(
                [*plan.alone, *(i for run in plan.runs for i in run)],
                key=lambda i: (-len(prompts[i].ids), i),
            )
            plan.runs = []
        plan.tell()
        for run in plan.runs:
            prefix = SharedPrefix(scorer)
            fed = [prompts[i].ids[:-1] for i in run]
            cuts = dict(zip(run, branch_points(fed, [len(ids) for ids in fed]), strict=True))
            left = [i for i in run if i in wanted]
            while left:
                try:
                    at = left[0]
                    new = self._from_prefix(prefix, prompts[at], options, stopping, cuts[at])
                except torch.OutOfMemoryError:
                    scorer.budget.shrink(1)  # raises when small chunks do not fit either
                    prefix = SharedPrefix(scorer)
                    continue
                done(left.pop(0), new)
        scorer.run_batches(
            scorer.batches(plan.alone, [prompt.length for prompt in prompts]),
            lambda numbers: self._batch([prompts[i] for i in numbers], options, stopping),
            done,
            wanted,
        )

    def _from_prefix(
        self, prefix: SharedPrefix, prompt: Prompt, options, stopping, cuts: Sequence[int] = ()
    ) -> list[int]:
        """Continue one prompt over a cache that already holds a beginning of it."""
        scorer = self.scorer
        ids = list(prompt.ids)
        with scorer.method.begin_request(scorer.model, [prompt.length]):
            fed = ids[:-1]  # the last token is left to generate, which needs its logits
            prefix.feed(fed, prefix.shared_with(fed, cuts, len(fed)), cuts)
            return self._run([ids], options, stopping, past_key_values=prefix.cache)[0]

    def _batch(self, prompts: list[Prompt], options, stopping) -> list[list[int]]:
        scorer = self.scorer
        extra = {} if scorer.method.cacheable else {"use_cache": False}
        longest = max(len(prompt.ids) for prompt in prompts)
        too_long = scorer.budget.chunk(1, longest) < longest  # to feed at once
        first = prompts[0]
        continues = scorer.method.reuse_key(scorer.config, first.length) is not None
        if len(prompts) == 1 and too_long and continues and not extra:
            return [self._from_prefix(SharedPrefix(scorer), first, options, stopping)]
        with scorer.method.begin_request(scorer.model, [prompt.length for prompt in prompts]):
            return self._run([list(p.ids) for p in prompts], options, stopping, **extra)

    def _run(self, rows: list[list[int]], options, stopping, **extra) -> list[list[int]]:
        model: Any = self.scorer.model
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.pad_token, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for row, tokens in enumerate(rows):
            ids[row, width - len(tokens) :] = torch.tensor(tokens)
            mask[row, width - len(tokens) :] = 1
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            stopping_criteria=stopping(width, len(rows)),
            pad_token_id=self.pad_token,
            **{**options, **extra},
        )
        return [row[width:].tolist() for row in out]
