"""Position Interpolation: divide every position by a factor.

Angle of position p and pair j: `(p / s) * b ** (-2j / d)`, with `s = length / original length`.
Paper: Chen et al. 2023, https://arxiv.org/abs/2306.15595. Reference code: transformers' `linear`
scaling as used by Leooyii/LCEG@2ce672d continuous_finetuning/fine-tune.py:147 (factor 8 from 4096
to 32768). There the factor is rounded up to an integer; here it is the exact ratio.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ctxbench.methods.base import check_positive, length_ratio
from ctxbench.methods.rotary import PositionMethod, inverse_frequencies, rotary_base, rotary_dim

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class PositionInterpolation(PositionMethod, name="pi"):
    """Divide every position by `factor`.

    Attributes:
        factor: s; default `length / original length`.
    """

    factor: float | None = None

    stock_type: ClassVar[str] = "linear"

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Set the factor."""
        method = super().resolve(config)
        check_positive(self, factor=1)
        if self.factor is None:
            method = replace(method, factor=length_ratio(self, config, "factor"))
        return method

    def neutral(self, config: PreTrainedConfig) -> Self:
        """Return the method with factor 1."""
        return replace(self, factor=1.0)

    def scaled(self, config: PreTrainedConfig, current_length: int) -> tuple[torch.Tensor, float]:
        """Return all frequencies divided by the factor."""
        assert self.factor is not None  # resolved
        return inverse_frequencies(rotary_dim(config), rotary_base(config)) / self.factor, 1.0

    def stock_parameters(self, config: PreTrainedConfig) -> dict[str, Any] | None:
        """Return transformers' `linear` scaling."""
        return {"rope_type": "linear", "factor": self.factor}
