"""Dynamic NTK: an NTK base that follows the length of the request.

`alpha(L) = s * max(L, floor) / C - (s - 1)`, at least 1; base `b * alpha ** (d / (d - 2))`; `C` the
original length, `L` the request's final length. Source: emozilla 2023, transformers' `dynamic`;
the floor is Leooyii/LCEG@2ce672d models/llama_ntk_32k/modeling_llama.py:168-196 (hard-coded 32768
there). Lu et al. 2024 (https://arxiv.org/abs/2409.12181) use s = 2 without a floor (NTK-Frozen) and
train with `s = length / (2 C)`, floor = length (NTK-32K, NTK-64K).

What differs: transformers keeps the largest base seen and rotates cached keys by several bases
(modeling_rope_utils.py `dynamic_frequency_update`), so a result depends on what ran before. Here
the base is a function of the request alone.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ctxbench.methods.anatomy import rotary_of, text_config
from ctxbench.methods.base import check_positive
from ctxbench.methods.extension import extension_of
from ctxbench.methods.record import base_config, original_length
from ctxbench.methods.rope_settings import rope_settings, set_rope_settings
from ctxbench.methods.rotary import (
    KeepFloat32,
    PositionMethod,
    inverse_frequencies,
    ntk_base,
    remade,
    rotary_base,
    rotary_dim,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class DynamicNTK(PositionMethod, name="dynamic_ntk"):
    """NTK base that follows the length of the request.

    Attributes:
        factor: s.
        floor: shortest length the base is computed for, tokens; default none, so that requests
            within the original window are not scaled.
        policy: `pinned`: the base of the request's final length, cached and uncached agree;
            `stateless`: the base of the tokens so far, recomputed without a cache;
            `hf`: transformers' own module with its running maximum.
    """

    factor: float = 2.0
    floor: int | None = None
    policy: Literal["pinned", "stateless", "hf"] = "pinned"

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Check the options."""
        check_positive(self, factor=1, floor=1)
        if self.policy == "hf" and self.floor is not None:
            raise ValueError(
                f"method=dynamic_ntk: floor={self.floor} with policy=hf: transformers has no "
                "floor. Leave out floor, or use policy=pinned."
            )
        return super().resolve(config)

    def for_training(self, config: PreTrainedConfig) -> Self:
        """Return the paper's rule where the factor was left at its default.

        `factor = length / (2 * original length)` and `floor = length`: training sequences all
        have that length, so alpha is constant.
        """
        default = type(self)()
        if self.length is None or (self.factor, self.floor) != (default.factor, default.floor):
            return self
        factor = max(self.length / (2 * original_length(config)), 1.0)
        return replace(self, factor=factor, floor=self.length)

    def alpha(self, config: PreTrainedConfig, current_length: int) -> float:
        """Return alpha at a length in tokens."""
        length = max(current_length, self.floor or 0)
        return max(self.factor * length / original_length(config) - (self.factor - 1), 1.0)

    def neutral(self, config: PreTrainedConfig) -> Self:
        """Return the method with a text within the window."""
        return replace(self, floor=None)

    @property
    def length_dependent(self) -> bool:
        """Always: the floor only sets where it begins."""
        return True

    @property
    def cacheable(self) -> bool:
        """Whether one base serves a whole request."""
        return self.policy != "stateless"

    def scaled(self, config: PreTrainedConfig, current_length: int) -> tuple[torch.Tensor, float]:
        """Return the frequencies of the base at this length."""
        dim = rotary_dim(config)
        base = ntk_base(rotary_base(config), self.alpha(config, current_length), dim)
        return inverse_frequencies(dim, base), 1.0

    def edit_model(self, model: PreTrainedModel) -> None:
        """Install the stateless module, or transformers' own for `policy=hf`."""
        if self.policy != "hf":
            super().edit_model(model)
            return
        config = copy.deepcopy(base_config(text_config(model)))
        scaling = {"rope_type": "dynamic", "factor": self.factor}
        set_rope_settings(config, {**rope_settings(config), **scaling})
        rotary = KeepFloat32(remade(rotary_of(model), config)).to(model.device)
        extension_of(model).replace_rotary(model, rotary)

    def reuse_key(self, config: PreTrainedConfig, length: int) -> object | None:
        """Return the frequencies of the pinned base; None where the base moves."""
        return super().reuse_key(config, length) if self.policy == "pinned" else None
