"""Low-rank adapters (LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685), by PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from ctxbench.core.compat.peft import old_name_asked

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def add_adapters(
    model: PreTrainedModel,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    also: Sequence[str] = (),
) -> PeftModel:
    """Return the model with adapters that train, everything else frozen.

    Args:
        model: changed in place.
        rank: of the adapters.
        alpha: their scale is `alpha / rank`.
        targets: names of the adapted linear layers.
        also: parameters whose name has one of these parts train whole.

    Raises:
        ValueError: no layer has one of the names.
    """
    import peft

    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=list(targets),
        task_type="CAUSAL_LM",
    )
    with old_name_asked():
        adapted = peft.get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if any(part in name for part in also):
            parameter.requires_grad_(True)
    return adapted


def load_adapters(model: PreTrainedModel, path: str, revision: str | None = None) -> PeftModel:
    """Return the model with adapters from a folder or a hub id."""
    from peft import PeftModel

    with old_name_asked():
        return PeftModel.from_pretrained(model, path, revision=revision)


def attention_layers(model: nn.Module) -> list[str]:
    """Return the names of attention's linear layers: `q_proj`, ... or `query_key_value`, ..."""
    found = {
        name: None  # a dict keeps their order
        for module in model.modules()
        if type(module).__name__.endswith("Attention")
        for name, child in module.named_children()
        if isinstance(child, nn.Linear)
    }
    return list(found)
