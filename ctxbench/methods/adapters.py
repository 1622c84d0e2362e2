"""Low-rank adapters (LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685), by PEFT."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from torch import nn

from ctxbench.core.compat.peft import old_name_asked
from ctxbench.core.errors import near_names

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
        ValueError: a name that no layer, or no parameter, has; or one whose adapter would not be
            what the merged model computes.
    """
    import peft

    check_targets(model, targets)
    _check_also(model, also)
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


_ADAPTED = (nn.Linear, nn.Embedding)


def check_targets(model: nn.Module, targets: Sequence[str]) -> None:
    """Check that adapters on layers of these names are possible, for each of them.

    Raises:
        ValueError: no layer has a name, or what has it is no layer that takes an adapter; or the
            layer's weight is also another's.
    """
    modules = dict(model.named_modules())
    known = {n.rpartition(".")[2] for n, m in modules.items() if isinstance(m, _ADAPTED)}
    stacked = [n for n, p in model.named_parameters() if p.ndim > 2]
    for target in targets:
        found = [m for n, m in modules.items() if n == target or n.endswith(f".{target}")]
        experts = [n for n in stacked if _words(target) & _words(n.rpartition(".")[2])]
        if experts:
            raise ValueError(
                f"Adapters on {target!r} would leave out {_kinds(experts)}, where a mixture keeps "
                "its experts in one tensor, which has no adapter here. Allowed are "
                f"{', '.join(sorted(known))}. Leave out {target}, or train the experts whole "
                "(--lora-also experts)."
            )
        if not found or not all(isinstance(m, _ADAPTED) for m in found):
            raise ValueError(
                f"Adapters on {target!r}: {'no layer has' if not found else 'no linear layer has'} "
                f"this name{near_names(target, known)} This model has "
                f"{', '.join(sorted(known))}. Give some of these (--lora-targets)."
            )
        _check_untied(model, target, found)


def _check_untied(model: nn.Module, target: str, found: list[nn.Module]) -> None:
    whose = [m for m in model.modules() if isinstance(m, _ADAPTED)]
    for module in found:
        weight = module.weight
        if sum(other.weight is weight for other in whose) > 1:
            raise ValueError(
                f"An adapter on {target!r} would change one of two layers that share their weight "
                "(tied embeddings), and merged it changes both: another model than the one that "
                f"trained. Train it whole (--lora-also embed), or leave {target} out."
            )


def _check_also(model: nn.Module, also: Sequence[str]) -> None:
    names = [name for name, _ in model.named_parameters()]
    for part in also:
        if not any(part in name for name in names):
            known = sorted({word for name in names for word in name.split(".")[:-1]} - {""})
            known = [word for word in known if not word.isdigit()]
            raise ValueError(
                f"No parameter has {part!r} in its name{near_names(part, known)} Names are made "
                f"of {', '.join(known)}. Give a part of one (--lora-also)."
            )


def _words(name: str) -> set[str]:
    return set(name.split("_")) - {"proj", "weight"}


def _kinds(names: Collection[str]) -> str:
    return ", ".join(sorted({re.sub(r"\.\d+(?=\.)", ".*", name) for name in names}))


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
