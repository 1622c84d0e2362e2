"""The oracle: every score of every branch, a few query rows at a time.

Legend: B batch, H query heads, K key heads, T queries, S keys, D head_dim.
"""

from __future__ import annotations

import torch

from ctxbench.methods.kernels.plan import AttentionPlan, Branch
from ctxbench.methods.kernels.rope import Rope


def dense(
    plan: AttentionPlan,
    rope: Rope,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    positions: torch.Tensor,
    scale: float,
    rows: int = 64,
) -> torch.Tensor:
    """Return attention `[B, H, T, D]` computed the slow and plain way.

    Args:
        plan: what to compute.
        rope: the model's rotary embedding.
        query: `[B, H, T, D]`, not rotated; the last T of the S tokens.
        key: `[B, K, S, D]`, not rotated.
        value: `[B, K, S, D]`.
        positions: `[B or 1, S]` of the keys, -1 for padding.
        scale: on the scores.
        rows: query rows at a time; O(rows * S) memory.

    Queries that are padding get finite rows without meaning.
    """
    queries_per_key = query.shape[1] // key.shape[1]
    at_BT = positions[:, positions.shape[1] - query.shape[2] :].clamp(min=0)
    query = plan.scale_queries(query, at_BT)
    key = plan.scale_keys(key, positions.clamp(min=0))
    value = value.repeat_interleave(queries_per_key, dim=1)
    rotated = []
    for branch in plan.branches:
        turned = rope.key(key, branch.key_position(positions.clamp(min=0)))
        turned = turned.repeat_interleave(queries_per_key, dim=1)
        rotated.append((rope.query(query, branch.query_position(at_BT)), turned))
    outputs = []
    for begin in range(0, query.shape[2], rows):
        some = slice(begin, begin + rows)
        scores = None
        for branch, (q_BHTD, k_BHSD) in zip(plan.branches, rotated, strict=True):
            branch_scores = plan.capped(q_BHTD[:, :, some] @ k_BHSD.transpose(-1, -2) * scale)
            if scores is None:
                scores = torch.full_like(branch_scores, torch.finfo(branch_scores.dtype).min)
            seen_BTS = visible(branch, at_BT[:, some], positions)
            scores = torch.where(seen_BTS[:, None], branch_scores, scores)
        assert scores is not None
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        weights = with_sinks(scores, plan.sinks).softmax(-1)[..., : positions.shape[1]]
        outputs.append(weights.to(value.dtype) @ value)
    return torch.cat(outputs, dim=2)


def visible(
    branch: Branch, query_positions: torch.Tensor, key_positions: torch.Tensor
) -> torch.Tensor:
    """Return which keys each query sees through a branch, `[B or 1, T, S]` bool.

    Args:
        branch: of a plan.
        query_positions: `[B or 1, T]`.
        key_positions: `[B or 1, S]`, -1 for padding.
    """
    first = branch.first(query_positions)[..., None].clamp(min=0)
    end = branch.end(query_positions)[..., None]
    keys = key_positions[:, None, :]
    return (keys >= first) & (keys < end)


def with_sinks(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Return scores `[B, H, T, S]` with the score of each head's sink behind them."""
    if sinks is None:
        return scores
    column = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    return torch.cat((scores, column), dim=-1)
