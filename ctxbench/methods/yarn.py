"""YaRN: interpolate slow pairs, keep fast ones, sharpen attention.

`f_j = theta_j * (1 - r_j) + theta_j / s * r_j` with a ramp r from 0 (pairs that turn `beta_fast`
times or more over the original window C) to 1 (`beta_slow` times or fewer); cos and sin are
multiplied by `0.1 ln s + 1`. Paper: Peng et al. 2023, https://arxiv.org/abs/2309.00071. Code:
jquesnelle/yarn@995db5b scaled_rope/LlamaYaRNScaledRotaryEmbedding.py:5-84, and
LlamaDynamicYaRNScaledRotaryEmbedding.py:58 for `dynamic`.

What differs: the code's ramp is linear in the pair's index between rounded bounds (`ramp=code`,
also transformers'); the paper's is linear in the number of turns C / wavelength (`ramp=paper`).
They differ by up to 57 % in a frequency (d = 128, s = 8). With partial rotation the attention
factor reaches the rotated dimensions only, as in transformers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from ctxbench.methods.base import check_positive, length_ratio
from ctxbench.methods.record import original_length
from ctxbench.methods.rotary import (
    PositionMethod,
    factor_of_length,
    inverse_frequencies,
    rotary_base,
    rotary_dim,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class YaRN(PositionMethod, name="yarn"):
    """Interpolate slow pairs, keep fast ones, sharpen attention.

    Attributes:
        factor: s; default `length / original length`. With `dynamic` it follows the request.
        beta_fast: turns over the original window from which a pair is kept.
        beta_slow: turns up to which a pair is interpolated.
        attention_factor: multiplies cos and sin; default `0.1 ln s + 1`.
        ramp: `code` (linear in the pair's index) or `paper` (linear in its turns).
        dynamic: s = max(final length / original length, 1) for each request.
    """

    factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    ramp: Literal["code", "paper"] = "code"
    dynamic: bool = False

    stock_type: ClassVar[str] = "yarn"

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Set the factor."""
        check_positive(self, factor=1, attention_factor=0)
        if not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(
                f"method=yarn: beta_slow={self.beta_slow}, beta_fast={self.beta_fast}; allowed is "
                "0 < beta_slow < beta_fast. Give the two in that order (the paper: 1 and 32)."
            )
        if self.dynamic and self.factor is not None:
            raise ValueError(
                f"method=yarn: factor={self.factor} with dynamic=true would be ignored, because "
                "the factor then follows the request. Give one of the two."
            )
        method = super().resolve(config)
        if self.factor is None and not self.dynamic:
            method = replace(method, factor=length_ratio(self, config, "factor"))
        return method

    def neutral(self, config: PreTrainedConfig) -> Self:
        """Return the method with factor 1."""
        return replace(self, factor=None if self.dynamic else 1.0, attention_factor=1.0)

    @property
    def length_dependent(self) -> bool:
        """Only when dynamic."""
        return self.dynamic

    def scaled(self, config: PreTrainedConfig, current_length: int) -> tuple[torch.Tensor, float]:
        """Return the interpolated frequencies and the attention factor."""
        factor = self.factor or factor_of_length(self, config, current_length)
        theta = inverse_frequencies(rotary_dim(config), rotary_base(config))
        ramp = self._code_ramp(config) if self.ramp == "code" else self._paper_ramp(config, theta)
        scaled = theta * (1 - ramp) + theta / factor * ramp
        attention = self.attention_factor
        return scaled, 0.1 * math.log(factor) + 1.0 if attention is None else attention

    def stock_parameters(self, config: PreTrainedConfig) -> dict[str, Any] | None:
        """Return transformers' `yarn` scaling for the code's ramp and a fixed factor."""
        if self.dynamic or self.ramp != "code":
            return None
        stock = {
            "rope_type": "yarn",
            "factor": self.factor,
            "original_max_position_embeddings": original_length(config),
            "beta_fast": self.beta_fast,
            "beta_slow": self.beta_slow,
        }
        if self.attention_factor is not None:
            stock["attention_factor"] = self.attention_factor
        return stock

    def _code_ramp(self, config: PreTrainedConfig) -> torch.Tensor:
        dim, base, original = rotary_dim(config), rotary_base(config), original_length(config)

        def pair_with(turns: float) -> float:
            return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

        low = max(math.floor(pair_with(self.beta_fast)), 0)
        high = min(math.ceil(pair_with(self.beta_slow)), dim - 1)
        width = high - low or 0.001
        pairs = torch.arange(dim // 2, dtype=torch.float64)
        return ((pairs - low) / width).clamp(0, 1)

    def _paper_ramp(self, config: PreTrainedConfig, theta: torch.Tensor) -> torch.Tensor:
        turns = original_length(config) * theta / (2 * math.pi)
        return 1 - ((turns - self.beta_slow) / (self.beta_fast - self.beta_slow)).clamp(0, 1)
