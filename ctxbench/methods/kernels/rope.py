"""Rotating queries and keys to any positions as the model's own layer rotates them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Angles = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""`(x, positions [batch, length])` to cos and sin `[batch, length, d / 2]` in the dtype of x."""


Norm = Callable[[torch.Tensor], torch.Tensor]
"""Maps heads `[batch, heads, length, head_dim]` to heads of that shape, each by itself."""


@dataclass(frozen=True)
class Turn:
    """Which dimensions of a head are rotated, and how they are paired.

    Attributes:
        pairs: neighbours turn together (GLM, Cohere), else dimension j and j + d / 2 (Llama).
        last: the last d dimensions are rotated, else the first d.
        backwards: by the negative angle.
    """

    pairs: bool = False
    last: bool = False
    backwards: bool = False

    def __call__(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Return `x` `[batch, heads, length, head_dim]` rotated; other dimensions stay as is.

        Args:
            x: queries or keys.
            cos: `[batch or 1, 1, length, d / 2]`.
            sin: as `cos`.
        """
        dim = 2 * cos.shape[-1]
        begin = x.shape[-1] - dim if self.last else 0
        turned = x[..., begin : begin + dim]
        if self.backwards:
            sin = -sin
        if self.pairs:
            left, right = turned[..., ::2], turned[..., 1::2]
            turned = torch.stack((left * cos - right * sin, right * cos + left * sin), dim=-1)
            turned = turned.flatten(-2)
        else:
            left, right = turned.chunk(2, dim=-1)
            turned = torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
        if dim == x.shape[-1]:
            return turned
        return torch.cat((x[..., :begin], turned, x[..., begin + dim :]), dim=-1)


class Rope:
    """A layer's rotation as a function of positions.

    Args:
        angles: of the model's rotary module for this layer; None: it rotates nothing.
        turn: how the layer applies them.
        query_norm: what the layer does to a rotated query before it scores; None for nothing.
        key_norm: to a rotated key.
    """

    def __init__(
        self,
        angles: Angles | None,
        turn: Turn | None = None,
        query_norm: Norm | None = None,
        key_norm: Norm | None = None,
    ) -> None:
        self.angles, self.turn = angles, turn or Turn()
        self.query_norm, self.key_norm = query_norm, key_norm

    @property
    def relative(self) -> bool:
        """Whether a score depends on the difference of two positions only."""
        return self.query_norm is None and self.key_norm is None

    def query(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return queries `[batch, heads, length, head_dim]` as they score.

        Args:
            x: of that shape, not rotated.
            positions: `[batch or 1, length]` int64; may be negative where `relative`.
        """
        x = self(x, positions)
        return x if self.query_norm is None else self.query_norm(x)

    def key(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return keys `[batch, kv_heads, length, head_dim]` as they are scored; see `query`."""
        x = self(x, positions)
        return x if self.key_norm is None else self.key_norm(x)

    def __call__(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return queries or keys rotated, without any norm."""
        if self.angles is None:
            return x
        cos, sin = self.angles(x, positions)
        return self.turn(x, cos[:, None], sin[:, None])
