"""Adjusted base frequency: a fixed larger rotary base, as Llama Long and Code Llama train with.

Paper: Xiong et al. 2023, https://arxiv.org/abs/2309.16039, section 4.1: base 500,000 (Code Llama:
1,000,000). No reference code was published; the formula is RoPE's with another base.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxbench.methods.base import check_positive
from ctxbench.methods.rotary import PositionMethod, inverse_frequencies, rotary_dim

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class AdjustedBase(PositionMethod, name="abf"):
    """Use another rotary base.

    Attributes:
        base: the new base.
    """

    base: float = 500_000.0

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Check the base."""
        check_positive(self, base=1)
        return super().resolve(config)

    def scaled(self, config: PreTrainedConfig, current_length: int) -> tuple[torch.Tensor, float]:
        """Return the frequencies of the base."""
        return inverse_frequencies(rotary_dim(config), self.base), 1.0

    def stock_parameters(self, config: PreTrainedConfig) -> dict[str, Any] | None:
        """Return the base: transformers needs no scaling type for it."""
        return {"rope_theta": self.base}
