"""LongRoPE: one divisor per rotary pair, one set within the original window, one beyond it.

`f_j = theta_j / short_factor_j` for requests up to the original length, `theta_j / long_factor_j`
beyond; cos and sin are multiplied by `sqrt(1 + ln s / ln C)` in both. Paper: Ding et al. 2024,
https://arxiv.org/abs/2402.13753. Code: transformers 5.23 modeling_rope_utils.py
`_compute_longrope_parameters` (Phi-3's). The divisors come from a search and are part of a model.

What differs: transformers chooses the set by the tokens so far, so keys cached before the switch
keep the short set; here it is chosen once per request, by its final length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch

from ctxbench.core.settings import Numbers
from ctxbench.methods.base import check_positive
from ctxbench.methods.record import original_length
from ctxbench.methods.rope_settings import rope_settings
from ctxbench.methods.rotary import PositionMethod, inverse_frequencies, rotary_base, rotary_dim

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class LongRoPE(PositionMethod, name="longrope"):
    """One divisor per rotary pair, one set within the original window, one beyond it.

    Attributes:
        long_factor: divisors beyond the original window, `d / 2` numbers or the path of a JSON
            list; default the model's own, if it was published with them.
        short_factor: divisors within it; default the model's own, else all 1.
        factor: s of the attention scaling; default `length / original length`.
        attention_factor: multiplies cos and sin; default `sqrt(1 + ln s / ln C)`.
    """

    long_factor: Numbers | None = None
    short_factor: Numbers | None = None
    factor: float | None = None
    attention_factor: float | None = None

    stock_type: ClassVar[str] = "longrope"

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Complete the divisors and the factor."""
        check_positive(self, factor=1, attention_factor=0)
        method = super().resolve(config)
        own = rope_settings(config) if rope_settings(config).get("long_factor") else {}
        pairs = rotary_dim(config) // 2
        long = self.long_factor or own.get("long_factor")
        short = self.short_factor or own.get("short_factor") or (1.0,) * pairs
        if long is None:
            raise ValueError(
                "method=longrope needs long_factor, and this model was not published with one. "
                f"Give long_factor=FILE.json with a list of {pairs} numbers from the search."
            )
        for name, values in (("long_factor", long), ("short_factor", short)):
            if len(values) != pairs or min(values) <= 0:
                raise ValueError(
                    f"method=longrope: {name} has {len(values)} values, smallest {min(values)}; "
                    f"this model needs {pairs} positive ones (half its rotary dimension). "
                    f"Give a {name} made for this model."
                )
        return replace(
            method,
            long_factor=tuple(map(float, long)),
            short_factor=tuple(map(float, short)),
            factor=self.factor or max(int(method.length or 0) / original_length(config), 1.0),
        )

    def neutral(self, config: PreTrainedConfig) -> Self:
        """Return the method with all divisors 1."""
        ones = (1.0,) * (rotary_dim(config) // 2)
        return replace(self, long_factor=ones, short_factor=ones, attention_factor=1.0)

    @property
    def length_dependent(self) -> bool:
        """Always: the set is chosen by the request's length."""
        return True

    def scaled(self, config: PreTrainedConfig, current_length: int) -> tuple[torch.Tensor, float]:
        """Return the frequencies of the set for this length and the attention factor."""
        original = original_length(config)
        divisors = self.long_factor if current_length > original else self.short_factor
        theta = inverse_frequencies(rotary_dim(config), rotary_base(config))
        attention = self.attention_factor
        if attention is None:
            assert self.factor is not None  # resolved
            attention = math.sqrt(1 + math.log(self.factor) / math.log(original))
        return theta / torch.tensor(divisors, dtype=torch.float64), attention
