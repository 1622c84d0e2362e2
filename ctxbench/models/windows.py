"""Texts longer than a request: windows over them, and what the answers of windows sum up to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lm_eval import utils

from ctxbench.core.windows import WindowLosses
from ctxbench.models.requests import NOWHERE, Origin, ScoringRequest
from ctxbench.models.scoring import Score


def rolling_windows(
    ids: list[int],
    prefix_token: int,
    window: int,
    stride: int | None,
    origin: Origin = NOWHERE,
    begin: bool = False,
) -> list[ScoringRequest]:
    """Return windows that score every token of a text once.

    Args:
        ids: of the text, without the prefix token.
        prefix_token: fed before the first.
        window: tokens of a request at most.
        stride: tokens between the starts of windows; None: disjoint windows, as HFLM.
        origin: of the text.
        begin: whether every window begins with the prefix token.
    """
    window -= begin
    pairs = map(
        utils.make_disjoint_window,
        utils.get_rolling_token_windows(
            token_list=ids,
            prefix_token=prefix_token,
            max_seq_len=window,
            context_len=1 if stride is None else window - stride + 1,
        ),
    )
    requests = []
    for number, (context, continuation) in enumerate(pairs):
        before = [prefix_token] if begin and number else []
        size = min(len(context) + len(continuation), window) + len(before)
        first = len(before) + len(context)
        requests.append(ScoringRequest([*before, *context, *continuation], first, size, origin))
    return requests


def loss_and_buckets(
    request: ScoringRequest, score: Score, bucket: int
) -> tuple[float, list[float]]:
    """Return the summed loss of a window and its sums over buckets of positions, nats.

    Args:
        request: the window.
        score: of it.
        bucket: positions in one; 0: no buckets.
    """
    if not bucket:
        return -score.total, []
    losses = -score.logprobs.double()
    where = torch.arange(request.first, len(request.ids)) // bucket
    sums = torch.zeros(int(where[-1]) + 1, dtype=torch.float64).index_add_(0, where, losses)
    return -score.total, sums.tolist()


def window_losses(answers: Sequence[tuple[float, list[float]]], bucket: int) -> WindowLosses:
    """Return the losses of all windows of a text.

    Args:
        answers: `loss_and_buckets` of each window.
        bucket: positions in one; 0: no buckets.
    """
    losses: WindowLosses = {"sums": [loss for loss, _ in answers]}
    if bucket:
        longest = max((len(buckets) for _, buckets in answers), default=0)
        losses["positions"] = [
            sum(buckets[i] for _, buckets in answers if i < len(buckets)) for i in range(longest)
        ]
    return losses
