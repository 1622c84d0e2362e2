"""The fast exact kernel: only the keys that are seen, merged by log-sum-exp.

The queries are cut into blocks. What a block sees of a branch is one interval of keys; the middle
of it is seen by every query of the block and needs no mask, the two edges are no longer than the
block. Every piece is one fused attention that also returns the log-sum-exp of its scores, by which
the pieces of all branches are merged. A window costs O(T * window), full attention what it costs
in the stock kernel, and nothing of size T * S is ever allocated.

Legend: B batch, H query heads, K key heads, T queries, S keys, D head_dim.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ctxbench.core.compat.torch import cpu_attention
from ctxbench.methods.kernels.plan import FULL, AttentionPlan, Branch
from ctxbench.methods.kernels.rope import Rope

BLOCK = 512
"""Queries at a time."""
PIECE = 2048
"""Keys rotated at a time."""


def tiled(
    plan: AttentionPlan,
    rope: Rope,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    block: int = BLOCK,
) -> torch.Tensor:
    """Return attention `[B, H, T, D]` of rows without padding.

    Args:
        plan: what to compute.
        rope: the model's rotary embedding.
        query: `[B, H, T, D]`, not rotated; the last T of the S tokens.
        key: `[B, K, S, D]`, not rotated; key j is at position j.
        value: `[B, K, S, D]`.
        scale: on the scores.
        block: query rows at a time.
    """
    batch, heads, queries, _ = query.shape
    keys = key.shape[2]
    at = torch.arange(keys - queries, keys, device=query.device)[None]
    query = plan.scale_queries(query, at)
    tiles = [Tile(plan, branch, rope, query, key, keys - queries) for branch in plan.branches]
    outputs = []
    for begin in range(0, queries, block):
        end = min(begin + block, queries)
        merged: _Partial | None = None
        for tile in tiles:
            for partial in tile.pieces(value, begin, end, scale):
                merged = partial if merged is None else merge(merged, partial)
        assert merged is not None
        output = merged[0].reshape(batch, heads, end - begin, value.shape[-1])
        output = plan.drained(output, merged[1].reshape(batch, heads, end - begin))
        outputs.append(output.to(query.dtype))
    return torch.cat(outputs, dim=2)


_Partial = tuple[torch.Tensor, torch.Tensor]
"""Attention over some keys `[B, K, rows, D]` and the log-sum-exp of its scores `[B, K, rows]`."""


class Tile:
    """One branch of a plan with its rotated queries and keys."""

    def __init__(
        self,
        plan: AttentionPlan,
        branch: Branch,
        rope: Rope,
        query: torch.Tensor,
        key: torch.Tensor,
        start: int,
    ) -> None:
        queries = query.shape[2]
        at = torch.arange(start, start + queries)
        # intervals are arithmetic on the CPU: reading them must not wait for a GPU
        self.first, self.end = branch.first(at).clamp(min=0), branch.end(at)
        seen = self.end > self.first
        self.offset = int(self.first[seen].min()) if seen.any() else 0
        last = int(self.end[seen].max()) if seen.any() else 0
        self.rope, self.plan = rope, plan
        self.query, self.query_at = query, branch.query_position(at.to(query.device)[None])
        self.key = _rotated_keys(plan, branch, rope, key, self.offset, last)

    def pieces(self, value: torch.Tensor, begin: int, end: int, scale: float) -> Iterator[_Partial]:
        """Yield partial attention of queries `begin` to `end` over what they see."""
        first, stop = self.first[begin:end], self.end[begin:end]
        seen = stop > first
        if not seen.any():
            return
        low, high = int(first[seen].min()), int(stop[seen].max())
        # seen by every query of the block
        full_low, full_high = int(first.max()), int(stop.min())
        query = self.rope.query(self.query[:, :, begin:end], self.query_at[:, begin:end])
        query = _fold(query, value.shape[1])
        if full_high - full_low <= (end - begin) and (full_low, full_high) != (low, high):
            full_low = full_high = high
        if full_high > full_low:
            keys = self.key[:, :, full_low - self.offset : full_high - self.offset]
            yield attend(query, keys, value[:, :, full_low:full_high], scale, plan=self.plan)
        else:
            full_low = full_high = high
        if (full_low, full_high) == (low, high):
            return
        edges = torch.cat((torch.arange(low, full_low), torch.arange(full_high, high)))
        mask = (edges >= first[:, None]) & (edges < stop[:, None])
        mask = mask.repeat(query.shape[2] // (end - begin), 1).to(query.device)
        keys = _two_slices(self.key, low, full_low, full_high, high, self.offset)
        values = _two_slices(value, low, full_low, full_high, high)
        yield attend(query, keys, values, scale, mask, self.plan)


def _rotated_keys(
    plan: AttentionPlan,
    branch: Branch,
    rope: Rope,
    key: torch.Tensor,
    first: int,
    end: int,
) -> torch.Tensor:
    """Return keys `first` to `end` as a branch sees them, a piece at a time to spare memory."""

    def piece(begin: int, stop: int) -> torch.Tensor:
        at = torch.arange(begin, stop, device=key.device)[None]
        return rope.key(plan.scale_keys(key[:, :, begin:stop], at), branch.key_position(at))

    if needs_grad(key):
        return piece(first, end)
    rotated = torch.empty_like(key[:, :, first:end])
    for begin in range(first, end, PIECE):
        stop = min(begin + PIECE, end)
        rotated[:, :, begin - first : stop - first] = piece(begin, stop)
    return rotated


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    mask: torch.Tensor | None = None,
    plan: AttentionPlan = FULL,
) -> _Partial:
    """Return attention `[B, K, rows, D]` and its log-sum-exp `[B, K, rows]` (float32 or wider).

    Args:
        query: `[B, K, rows, D]`, rotated.
        key: `[B, K, some, D]`, rotated.
        value: `[B, K, some, D]`.
        scale: on the scores.
        mask: `[rows, some]` bool, True where seen. A row that sees nothing gets a log-sum-exp so
            low that merging drops it.
        plan: its cap on scores is kept.
    """
    bias = None
    if mask is not None:
        # half of the lowest number: added to any score it stays finite
        bias = torch.zeros(mask.shape, dtype=query.dtype, device=query.device)
        bias.masked_fill_(~mask, torch.finfo(query.dtype).min / 2)
    fused = plan.softcap is None and query.shape[-1] == value.shape[-1]
    if fused and query.device.type == "cpu" and not needs_grad(query, key, value):
        return cpu_attention(query, key, value, bias, scale)
    scores = plan.capped(query @ key.transpose(-1, -2) * scale)
    if bias is not None:
        scores = scores + bias
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    lse = scores.logsumexp(-1)
    return (scores - lse[..., None]).exp().to(value.dtype) @ value, lse


def needs_grad(*tensors: torch.Tensor) -> bool:
    """Return whether autograd will ask for gradients of any of them."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def merge(one: _Partial, other: _Partial) -> _Partial:
    """Return attention over the keys of both, and its log-sum-exp."""
    lse = torch.logaddexp(one[1], other[1])
    mine, theirs = ((part[1] - lse).exp()[..., None] for part in (one, other))
    return one[0] * mine + other[0] * theirs, lse


def _fold(query: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """Return `[B, H, rows, D]` as `[B, K, H / K * rows, D]`: grouped heads share their keys."""
    batch, heads, rows, head_dim = query.shape
    return query.reshape(batch, kv_heads, heads // kv_heads * rows, head_dim)


def _two_slices(
    x: torch.Tensor, low: int, middle: int, rest: int, high: int, offset: int = 0
) -> torch.Tensor:
    left = x[:, :, low - offset : middle - offset]
    right = x[:, :, rest - offset : high - offset]
    if left.shape[2] == 0 or right.shape[2] == 0:
        return left if right.shape[2] == 0 else right
    return torch.cat((left, right), dim=2)
