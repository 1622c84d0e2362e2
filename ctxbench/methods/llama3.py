"""Llama 3.1's scaling: interpolate slow pairs by a factor, keep fast ones, blend between.

With `r = C * theta / (2 pi)` turns over the original window:
`w = clamp((r - low) / (high - low), 0, 1)`, `f = theta / s * (1 - w) + theta * w`.
Source: Llama Team 2024, https://arxiv.org/abs/2407.21783; code transformers 5.23
modeling_rope_utils.py `_compute_llama3_parameters`, after meta-llama/llama-models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ctxbench.methods.base import check_positive, length_ratio
from ctxbench.methods.record import original_length
from ctxbench.methods.rotary import PositionMethod, inverse_frequencies, rotary_base, rotary_dim

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class Llama3(PositionMethod, name="llama3"):
    """Interpolate slow pairs by a factor, keep fast ones, blend between.

    Attributes:
        factor: s; default `length / original length` (Llama 3.1: 8, Llama 3.2: 32).
        low_freq_factor: turns over the original window up to which a pair is interpolated.
        high_freq_factor: turns from which it is kept.
    """

    factor: float | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    stock_type: ClassVar[str] = "llama3"

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Set the factor."""
        check_positive(self, factor=1)
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"method=llama3: low_freq_factor={self.low_freq_factor}, high_freq_factor="
                f"{self.high_freq_factor}; allowed is 0 < low_freq_factor < high_freq_factor. "
                "Give the two in that order (Llama 3.1: 1 and 4)."
            )
        method = super().resolve(config)
        if self.factor is None:
            method = replace(method, factor=length_ratio(self, config, "factor"))
        return method

    def neutral(self, config: PreTrainedConfig) -> Self:
        """Return the method with factor 1."""
        return replace(self, factor=1.0)

    def scaled(self, config: PreTrainedConfig, current_length: int) -> tuple[torch.Tensor, float]:
        """Return the blended frequencies."""
        theta = inverse_frequencies(rotary_dim(config), rotary_base(config))
        turns = original_length(config) * theta / (2 * math.pi)
        width = self.high_freq_factor - self.low_freq_factor
        keep = ((turns - self.low_freq_factor) / width).clamp(0, 1)
        assert self.factor is not None  # resolved
        return theta / self.factor * (1 - keep) + theta * keep, 1.0

    def stock_parameters(self, config: PreTrainedConfig) -> dict[str, Any] | None:
        """Return transformers' `llama3` scaling."""
        return {
            "rope_type": "llama3",
            "factor": self.factor,
            "low_freq_factor": self.low_freq_factor,
            "high_freq_factor": self.high_freq_factor,
            "original_max_position_embeddings": original_length(config),
        }
