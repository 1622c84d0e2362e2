"""Rotating any tensor to any positions with the model's own frequencies."""

from __future__ import annotations

import torch
from torch import nn


class Rope:
    """The model's rotary embedding as a function of positions.

    Args:
        rotary: a transformers rotary module: `(x, position_ids) -> cos, sin`.
    """

    def __init__(self, rotary: nn.Module) -> None:
        self.rotary = rotary

    def __call__(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return `x` `[batch, heads, length, head_dim]` rotated; dimensions beyond stay as is.

        Args:
            x: queries or keys.
            positions: `[batch or 1, length]` int64; may be negative.
        """
        cos, sin = self.rotary(x, positions)
        cos, sin = cos[:, None], sin[:, None]
        dim = cos.shape[-1]
        turned = x[..., :dim]
        left, right = turned.chunk(2, dim=-1)
        turned = turned * cos + torch.cat((-right, left), dim=-1) * sin
        return turned if dim == x.shape[-1] else torch.cat((turned, x[..., dim:]), dim=-1)
