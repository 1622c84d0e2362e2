"""One query per row: every branch in a single fused attention.

RoPE scores depend on the difference of two positions only, so with one query the key can carry it
all: the query stays at position 0 and key j is rotated to key_position(j) - query_position(t) of
the branch that sees it. Then all branches are one attention without a mask.

Legend: B batch, H query heads, K key heads, S keys, D head_dim.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from ctxbench.methods.kernels.plan import FULL, AttentionPlan
from ctxbench.methods.kernels.rope import Rope


def decode(
    plan: AttentionPlan,
    rope: Rope,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    positions: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Return attention `[B, H, 1, D]` of the last token of each row.

    Args:
        plan: what to compute.
        rope: the model's rotary embedding.
        query: `[B, H, 1, D]`, not rotated.
        key: `[B, K, S, D]`, not rotated.
        value: `[B, K, S, D]`.
        positions: `[B or 1, S]` of the keys, -1 for padding.
        scale: on the scores.
    """
    at = positions[:, -1:].clamp(min=0)
    distance, seen = relative_positions(plan, at, positions)
    if len(positions) == 1:
        kept = seen[0].nonzero()[:, 0]
        if len(kept) < positions.shape[1]:
            key, value = key[:, :, kept], value[:, :, kept]
            positions, distance, seen = positions[:, kept], distance[:, kept], None
        else:
            seen = None
    key = rope(plan.scale_keys(key, positions.clamp(min=0)), distance)
    query = rope(plan.scale_queries(query, at), torch.zeros_like(at))
    return one_query(query, key, value, scale, seen, plan)


def relative_positions(
    plan: AttentionPlan, at: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where each key stands relative to the query, and which keys it sees.

    Args:
        plan: what to compute.
        at: `[B or 1, 1]`, the query's position.
        positions: `[B or 1, S]` of the keys, -1 for padding.

    Returns:
        Rotary distance `[B or 1, S]` int64, 0 or negative where RoPE's is, and `[B or 1, S]` bool.
    """
    distance = torch.zeros_like(positions)
    seen = torch.zeros_like(positions, dtype=torch.bool)
    for branch in plan.branches:
        inside = (positions >= branch.first(at).clamp(min=0)) & (positions < branch.end(at))
        between = branch.key_position(positions) - branch.query_position(at)
        distance = torch.where(inside, between, distance)
        seen |= inside
    return distance, seen


def one_query(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    seen: torch.Tensor | None = None,
    plan: AttentionPlan = FULL,
) -> torch.Tensor:
    """Return attention `[B, H, 1, D]` of one rotated query over rotated keys `[B, K, S, D]`.

    The query heads that share a key head become rows of one attention, so no key is repeated.
    """
    batch, heads, _, head_dim = query.shape
    folded = query.reshape(batch, key.shape[1], heads // key.shape[1], head_dim)
    mask = None if seen is None else seen[:, None, None, :]
    if plan.stock:
        output = scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scale)
        return output.reshape(batch, heads, 1, -1)
    scores = plan.capped(folded @ key.transpose(-1, -2) * scale)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    lse = scores.logsumexp(-1).reshape(batch, heads, 1)
    output = scores.softmax(-1).to(value.dtype) @ value
    return plan.drained(output.reshape(batch, heads, 1, -1), lse)
