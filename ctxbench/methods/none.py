"""No extension: the model as it is, at any length; the control of every comparison.

A length beyond the model's window is accepted: that is how a base model's collapse is measured.
Frequencies: `b ** (-2j / d)` (Su et al. 2021, https://arxiv.org/abs/2104.09864), or whatever
scaling the model itself was published with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ctxbench.methods.anatomy import has_rotary, text_config
from ctxbench.methods.base import default_length
from ctxbench.methods.rope_settings import rope_settings
from ctxbench.methods.rotary import PositionMethod, inverse_frequencies, rotary_base, rotary_dim

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class NoExtension(PositionMethod, name="none"):
    """The model as it is."""

    own_scaling: ClassVar[bool] = False

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Set the length; any model will do."""
        return replace(self, length=self.length or default_length(config))

    def neutral(self, config: PreTrainedConfig) -> Self | None:
        """Return the method as it is; None where it replaces nothing."""
        return self if rope_settings(config) else None

    def edit_model(self, model: PreTrainedModel) -> None:
        """Keep the frequencies float32, where the model has one set of them."""
        if has_rotary(model) and rope_settings(text_config(model)):
            super().edit_model(model)

    def scaled(self, config: PreTrainedConfig, current_length: int) -> tuple[torch.Tensor, float]:
        """Return the model's own frequencies."""
        if rope_settings(config).get("rope_type", "default") != "default":
            raise NotImplementedError(
                f"The model has a scaling of its own ({rope_settings(config)['rope_type']}); "
                "ctxbench leaves it to transformers and does not compute it."
            )
        return inverse_frequencies(rotary_dim(config), rotary_base(config)), 1.0

    def stock_parameters(self, config: PreTrainedConfig) -> dict[str, Any] | None:
        """Change nothing."""
        return {}
