"""What an attention method computes, said once, for every kernel to read.

A query at position t scores a key at position j through one of a few branches. A branch has its own
rotary position for the query and for the key, and for each t it sees one interval of keys. The
intervals of a plan do not overlap; one softmax runs over all of them:

    score(t, j) = rope(q_t, query_position(t)) . rope(k_j, key_position(j)) / sqrt(head_dim)
                  for the branch with  first(t) <= j < end(t)

Positions count the tokens of a row from 0, padding left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Positions = Callable[[torch.Tensor], torch.Tensor]
"""Maps int64 positions of any shape to int64 positions of that shape."""


def same(positions: torch.Tensor) -> torch.Tensor:
    """Return the positions as they are: ordinary RoPE."""
    return positions


def constant(value: int) -> Positions:
    """Return a map of every position to `value`."""
    return lambda positions: torch.full_like(positions, value)


def window(width: int) -> Positions:
    """Return the first key that is less than `width` tokens before a query."""
    return lambda t: (t - width + 1).clamp(min=0)


def chunk(width: int) -> Positions:
    """Return the first key of the chunk of `width` tokens that a query is in."""
    return lambda t: t // width * width


def after(positions: torch.Tensor) -> torch.Tensor:
    """Return the end of an interval that reaches to the query itself."""
    return positions + 1


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One way of scoring keys.

    Attributes:
        query_position: rotary position of a query at t.
        key_position: rotary position of a key at j.
        first: first key that a query at t scores through this branch; does not fall with t.
        end: one beyond the last; does not fall with t and is at most t + 1. Nothing is seen where
            it is not above `first`.
    """

    query_position: Positions = same
    key_position: Positions = same
    first: Positions = torch.zeros_like
    end: Positions = after


@dataclass(frozen=True, kw_only=True)
class AttentionPlan:
    """Branches whose intervals do not overlap.

    Attributes:
        branches: in any order.
        steady: number of the branch that sees most keys of a long text.
        query_scale: factor on a query at position t, float32; None for 1.
        key_scale: factor on a key at position j.
        softcap: scores are `softcap * tanh(score / softcap)`; None: as they are (Gemma-2: 50).
        sinks: `[heads]`, a score for each head that takes weight and gives nothing (gpt-oss).
    """

    branches: tuple[Branch, ...]
    steady: int = 0
    query_scale: Callable[[torch.Tensor], torch.Tensor] | None = None
    key_scale: Callable[[torch.Tensor], torch.Tensor] | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def stock(self) -> bool:
        """Whether fused kernels compute the scores: no cap on them, and no sinks."""
        return self.softcap is None and self.sinks is None

    def capped(self, scores: torch.Tensor) -> torch.Tensor:
        """Return scores of any shape under the cap."""
        return scores if self.softcap is None else (scores / self.softcap).tanh() * self.softcap

    def drained(self, output: torch.Tensor, lse: torch.Tensor) -> torch.Tensor:
        """Return attention without the weight that sinks take.

        Args:
            output: `[batch, heads, queries, head_dim]`, weights adding up to 1.
            lse: log-sum-exp of the scores, `[batch, heads, queries]`.
        """
        if self.sinks is None:
            return output
        kept = (lse - self.sinks.to(lse.dtype)[None, :, None]).sigmoid()
        return output * kept[..., None].to(output.dtype)

    def scale_queries(self, query: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return queries `[batch, heads, length, head_dim]` times their factor."""
        return _scaled(query, positions, self.query_scale)

    def scale_keys(self, key: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return keys `[batch, heads, length, head_dim]` times their factor."""
        return _scaled(key, positions, self.key_scale)


FULL = AttentionPlan(branches=(Branch(),))
"""Ordinary causal attention."""


def _scaled(
    x: torch.Tensor, positions: torch.Tensor, scale: Callable[[torch.Tensor], torch.Tensor] | None
) -> torch.Tensor:
    if scale is None:
        return x
    return x * scale(positions)[:, None, :, None].to(x.dtype)
