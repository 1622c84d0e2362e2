"""NTK-aware scaling with a fixed alpha: a larger rotary base.

Base `b * alpha ** (d / (d - 2))`: the fastest pair keeps its frequency, the slowest is divided by
alpha. Source: bloc97 2023, eq. 9 of Lu et al. 2024 (https://arxiv.org/abs/2409.12181) with
`alpha = length / original length`; code jquesnelle/yarn@995db5b
scaled_rope/LlamaNTKScaledRotaryEmbedding.py:6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ctxbench.methods.base import check_positive, length_ratio
from ctxbench.methods.rotary import (
    PositionMethod,
    inverse_frequencies,
    ntk_base,
    rotary_base,
    rotary_dim,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class NTK(PositionMethod, name="ntk"):
    """Raise the rotary base by a fixed alpha.

    Attributes:
        alpha: how much the slowest pair is stretched; default `length / original length`.
    """

    alpha: float | None = None

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Set alpha."""
        method = super().resolve(config)
        check_positive(self, alpha=1)
        if self.alpha is None:
            method = replace(method, alpha=length_ratio(self, config, "alpha"))
        return method

    def neutral(self, config: PreTrainedConfig) -> Self:
        """Return the method with alpha 1."""
        return replace(self, alpha=1.0)

    def scaled(self, config: PreTrainedConfig, current_length: int) -> tuple[torch.Tensor, float]:
        """Return the frequencies of the larger base."""
        return inverse_frequencies(rotary_dim(config), self._base(config)), 1.0

    def stock_parameters(self, config: PreTrainedConfig) -> dict[str, Any] | None:
        """Return the larger base: transformers needs no scaling type for it."""
        return {"rope_theta": self._base(config)}

    def _base(self, config: PreTrainedConfig) -> float:
        assert self.alpha is not None  # resolved
        return ntk_base(rotary_base(config), self.alpha, rotary_dim(config))
