"""Texts longer than a request: windows over them, and what the answers of windows sum up to.

Two kinds: the harness's rolling windows, and plans that a task brings
(`ctxbench.tasks.windows.WindowRequest`, known here by its keys alone).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval import utils

from ctxbench.models.scoring import Request, Score


def rolling_windows(
    ids: list[int], prefix_token: int, window: int, stride: int | None
) -> list[Request]:
    """Return windows that score every token of a text once.

    Args:
        ids: of the text.
        prefix_token: fed before the first.
        window: tokens of a request at most.
        stride: tokens between the starts of windows; None: disjoint windows, as HFLM.
    """
    pairs = map(
        utils.make_disjoint_window,
        utils.get_rolling_token_windows(
            token_list=ids,
            prefix_token=prefix_token,
            max_seq_len=window,
            context_len=1 if stride is None else window - stride + 1,
        ),
    )
    return [
        Request(
            [*context, *continuation],
            len(context),
            min(len(context) + len(continuation), window),
        )
        for context, continuation in pairs
    ]


def planned_windows(
    plan: dict[str, Any], task: str | None, final_length: Callable[[int, str | None], int]
) -> list[Request]:
    """Return the windows of a plan that a task brings.

    Args:
        plan: its `ids`, and as `windows` triples (context start, first scored token, end).
        task: its name.
        final_length: (tokens, task) -> length that sets the frequencies.

    Raises:
        ValueError: a plan of a kind that is not known here, or a window outside the text.
    """
    if plan.get("ctx_request") != "windows":
        raise ValueError(
            f"Task {task or '?'} makes a request of kind {plan.get('ctx_request')!r}; this "
            "ctxext knows 'windows'. Install matching versions of the task and ctxbench."
        )
    ids = plan["ids"]
    windows = []
    for start, first, end in plan["windows"]:
        if not 0 <= start < first < end <= len(ids):
            raise ValueError(
                f"Task {task or '?'} asks for the window {[start, first, end]} of {len(ids)} "
                "tokens; allowed is context_start < score_start < end. Mend the task."
            )
        windows.append(Request(ids[start:end], first - start, final_length(end - start, task)))
    return windows


def loss_and_buckets(bucket: int, request: Request, score: Score) -> tuple[float, list[float]]:
    """Return the summed loss of a window and its sums over buckets of positions, nats.

    Args:
        bucket: positions in one; 0: no buckets.
        request: the window.
        score: of it.
    """
    if not bucket:
        return -score.total, []
    losses = -score.logprobs.double()
    where = torch.arange(request.first, len(request.ids)) // bucket
    sums = torch.zeros(int(where[-1]) + 1, dtype=torch.float64).index_add_(0, where, losses)
    return -score.total, sums.tolist()


def window_sums(
    answers: Sequence[tuple[float, list[float]]], bucket: int
) -> dict[str, list[float]]:
    """Return losses per window and, with buckets, per bucket of positions, nats in float64.

    Args:
        answers: `loss_and_buckets` of each window.
        bucket: positions in one; 0: no buckets.
    """
    sums = {"sums": [loss for loss, _ in answers]}
    if bucket:
        longest = max((len(buckets) for _, buckets in answers), default=0)
        sums["positions"] = [
            sum(buckets[i] for _, buckets in answers if i < len(buckets)) for i in range(longest)
        ]
    return sums
