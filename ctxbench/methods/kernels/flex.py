"""The kernel for GPUs: FlexAttention, one call for each branch, merged by log-sum-exp.

Dong et al. 2024, https://arxiv.org/abs/2412.05496, as in torch.nn.attention.flex_attention. The
intervals of a plan say which tiles of keys are skipped, masked or read whole, so that the mask over
all pairs of tokens is never made.

Legend: B batch, H query heads, K key heads, T queries, S keys, D head_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from ctxbench.methods.kernels.plan import AttentionPlan
from ctxbench.methods.kernels.rope import Rope
from ctxbench.methods.kernels.tiled import merge

TILE = 128


def flex(
    plan: AttentionPlan,
    rope: Rope,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Return attention `[B, H, T, D]` of rows without padding; inference only.

    The arguments are those of `tiled`.
    """
    start = key.shape[2] - query.shape[2]
    at = torch.arange(start, key.shape[2], device=query.device)
    keys_at = torch.arange(key.shape[2], device=query.device)
    query = plan.scale_queries(query, at[None])
    key = plan.scale_keys(key, keys_at[None])
    merged = None
    for branch in plan.branches:
        first, end = branch.first(at).clamp(min=0), branch.end(at)
        if not bool((end > first).any()):
            continue
        output, auxiliary = _kernel(query.device.type)(
            rope.query(query, branch.query_position(at)[None]),
            rope.key(key, branch.key_position(keys_at)[None]),
            value,
            block_mask=interval_mask(first, end, key.shape[2]),
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
            return_aux=AuxRequest(lse=True),
        )
        assert auxiliary.lse is not None
        # a row that sees nothing has -inf, which merging would make not-a-number
        lse = auxiliary.lse.clamp(min=torch.finfo(torch.float32).min / 2)
        merged = (output, lse) if merged is None else merge(merged, (output, lse))
    assert merged is not None
    return merged[0].to(query.dtype)


def interval_mask(first: torch.Tensor, end: torch.Tensor, keys: int) -> BlockMask:
    """Return a mask in which query i sees the keys from `first[i]` to before `end[i]`.

    Args:
        first: `[T]` int64, not falling.
        end: `[T]` int64, not falling.
        keys: S.
    """
    queries = len(first)
    rows = -(-queries // TILE)
    fill = rows * TILE - queries
    last = (first[-1:].expand(fill), end[-1:].expand(fill))
    first_tiles = torch.cat((first, last[0])).view(rows, TILE, 1)
    end_tiles = torch.cat((end, last[1])).view(rows, TILE, 1)
    begins = torch.arange(0, keys, TILE, device=first.device)
    stops = begins + TILE
    seen = end_tiles > first_tiles
    some = ((stops > first_tiles) & (begins < end_tiles) & seen).any(1)
    whole = ((begins >= first_tiles) & (stops <= end_tiles)).all(1)

    def sees(
        batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return (key >= first[query]) & (key < end[query])

    return BlockMask.from_kv_blocks(
        *_listed(some & ~whole), *_listed(whole), BLOCK_SIZE=TILE, mask_mod=sees,
        seq_lengths=(queries, keys),
    )  # fmt: skip


def _listed(tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many tiles of each row are set, and their numbers first in line."""
    order = tiles.int().argsort(dim=-1, descending=True, stable=True)
    return tiles.sum(-1).int()[None, None], order.int()[None, None]


@cache
def _kernel(device: str) -> Callable[..., Any]:
    return torch.compile(flex_attention) if device == "cuda" else flex_attention
