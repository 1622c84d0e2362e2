"""Logits that are no numbers are an error, never a score: float16 overflows on long inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor

from ctxbench.models.requests import GenerationRequest, ScoringRequest


class NotFiniteError(ValueError):
    """A model computed NaN or infinity."""


def check_scores(logprobs: torch.Tensor, request: ScoringRequest, dtype: torch.dtype) -> None:
    """Check log-probabilities `[scored]` of a request.

    Raises:
        NotFiniteError: one is none; says which.
    """
    good = torch.isfinite(logprobs)
    if not good.all():
        at = int((~good).nonzero()[0, 0])
        value = float(logprobs[at])
        raise _error(f"the log-probability {value}", request, request.first + at, dtype)


class FiniteLogits(LogitsProcessor):
    """Checks the logits of every new token, and changes none.

    Args:
        requests: of the batch, a row each, or as many as there are beams.
        width: tokens of the padded prompts.
        dtype: of the model.
    """

    def __init__(self, requests: Sequence[GenerationRequest], width: int, dtype: torch.dtype):
        self.requests = requests
        self.width = width
        self.dtype = dtype

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return the scores `[rows, vocabulary]` as they are.

        Raises:
            NotFiniteError: the highest of a row is NaN or infinite.
        """
        highest = scores.amax(dim=-1)
        good = torch.isfinite(highest)
        if not good.all():
            row = int((~good).nonzero()[0, 0])
            request = self.requests[row * len(self.requests) // len(scores)]
            position = len(request.ids) + input_ids.shape[1] - self.width
            raise _error(f"the logit {float(highest[row])}", request, position, self.dtype)
        return scores


def _error(
    found: str, request: ScoringRequest | GenerationRequest, position: int, dtype: torch.dtype
) -> NotFiniteError:
    task, number, _ = request.origin
    document = "" if number is None else f", document {number},"
    return NotFiniteError(
        f"The model computes {found} for the token at position {position} of a request of task "
        f"{task or '?'}{document} with {len(request.ids)} tokens, in {dtype}. That is no "
        "score. float16 overflows in models that were trained in bfloat16: give dtype=bfloat16 or "
        "dtype=float32. If it is so in float32, the weights are damaged."
    )
