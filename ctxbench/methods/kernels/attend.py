"""Choosing the kernel for a plan."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ctxbench.methods.kernels.decode import decode
from ctxbench.methods.kernels.plan import Plan
from ctxbench.methods.kernels.rope import Rope
from ctxbench.methods.kernels.tiled import tiled


def attend(
    plan: Plan,
    rope: Rope,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    positions: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Return attention `[batch, heads, queries, head_dim]`; the arguments are those of `dense`."""
    if query.shape[2] == 1:
        return decode(plan, rope, query, key, value, positions, scale)
    if len(positions) == 1:
        return tiled(plan, rope, query, key, value, scale)

    def one(query, key, value):
        return tiled(plan, rope, query, key, value, scale)

    return rows_apart(one, query, key, value, positions)


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
