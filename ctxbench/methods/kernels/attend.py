"""Choosing the kernel for a plan."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch

from ctxbench.methods.kernels.decode import decode
from ctxbench.methods.kernels.plan import AttentionPlan
from ctxbench.methods.kernels.rope import Rope
from ctxbench.methods.kernels.tiled import needs_grad, tiled

log = logging.getLogger(__name__)

Kernel = Callable[
    [AttentionPlan, Rope, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor
]


def attend(
    plan: AttentionPlan,
    rope: Rope,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    positions: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Return attention `[batch, heads, queries, head_dim]`; the arguments are those of `dense`."""
    if query.shape[2] == 1 and rope.relative:
        return decode(plan, rope, query, key, value, positions, scale)
    same = query.shape[-1] == value.shape[-1]
    stock = plan.stock and same and not needs_grad(query, key, value)
    kernel = prefill_kernel(query.device.type, stock)

    def one(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return kernel(plan, rope, query, key, value, scale)

    if not is_padded(positions, len(query)):
        return one(query, key, value)
    return rows_apart(one, query, key, value, positions)


@cache
def prefill_kernel(device: str, stock: bool) -> Kernel:
    """Return the kernel for many queries: FlexAttention on a GPU, tiles elsewhere.

    Logged once for each choice. `stock`: no gradient is asked for, and scores are neither capped
    nor have sinks.
    """
    if device == "cuda" and stock:
        from ctxbench.methods.kernels.flex import flex

        log.info("attention kernel on cuda: FlexAttention, one call for each branch")
        return flex
    log.info("attention kernel on %s: tiles merged by log-sum-exp", device)
    return tiled


def is_padded(positions: torch.Tensor, batch: int) -> bool:
    """Return whether `[batch or 1, tokens]` has padding; one line for several rows has none."""
    return len(positions) > 1 or (batch == 1 and bool((positions < 0).any()))


def rows_apart(
    one: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """Return attention of a padded batch, each row computed by `one` without its padding.

    Queries that are padding get zeros.
    """
    new = query.shape[2]
    rows = []
    for row, real in enumerate(positions >= 0):
        kept = real.nonzero()[:, 0]
        asked = real[-new:].nonzero()[:, 0]
        this = slice(row, row + 1)
        output = query.new_zeros(1, *query.shape[1:])
        if len(asked):
            found = one(query[this, :, asked], key[this, :, kept], value[this, :, kept])
            output = output.index_copy(2, asked, found)
        rows.append(output)
    return torch.cat(rows)
