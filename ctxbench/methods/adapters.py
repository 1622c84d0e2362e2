"""Low-rank adapters (LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685), by PEFT."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ctxbench.core.compat.peft import old_name_asked
from ctxbench.core.errors import near_names, shown

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


logger = logging.getLogger(__name__)

ADAPTER = "adapter"
"""Folder beside a result that keeps the adapters as they are."""
TRAINED_WHOLE, IDENTITY = "trained_whole.safetensors", "trained_on.json"
"""Its files beside PEFT's: what trained whole, and the weights by content."""


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
    """Return the model with adapters from a folder or a hub id, and what trained whole with them.

    Raises:
        ValueError: they are in the model's weights already, or belong to another model.
    """
    from peft import PeftModel
    from safetensors.torch import load_file

    if identity := _file_beside(path, IDENTITY, revision):
        _check_identity(model, json.loads(identity.read_text(encoding="utf-8")), path)
    try:
        with old_name_asked():
            adapted = PeftModel.from_pretrained(model, path, revision=revision)
    except (ValueError, TypeError, KeyError, OSError, RuntimeError) as error:
        raise ValueError(
            f"peft={shown(path)}: no adapter can be loaded from there "
            f"({str(error).splitlines()[0]}). Give a folder that ctxbench-train or PEFT's "
            "save_pretrained wrote for this model, or a hub id."
        ) from error
    if whole := _file_beside(path, TRAINED_WHOLE, revision):
        _load_whole(adapted.get_base_model(), load_file(whole), str(whole))
    return adapted


def write_identity(model: PeftModel, folder: Path) -> None:
    """Write what the adapted weights are without and with the adapter, by content.

    Args:
        model: with its adapter not merged.
        folder: of the adapter.
    """
    base: Any = model.get_base_model()
    adapted = [(n, m) for n, m in base.named_modules() if hasattr(m, "base_layer")]
    found = {}
    for name, module in [adapted[0], adapted[-1]]:
        weight = module.base_layer.weight
        merged = weight + sum(map(module.get_delta_weight, module.active_adapters))
        found[name] = {"base": _digest(weight), "merged": _digest(merged)}
    (folder / IDENTITY).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _file_beside(path: str, name: str, revision: str | None) -> Path | None:
    """Return a file of an adapter's folder or hub id, None if there is none."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        return Path(hf_hub_download(path, name, revision=revision))
    except (
        EntryNotFoundError,
        HFValidationError,
        OSError,
    ):  # PEFT says it where there is no such adapter
        return None


def _check_identity(model: nn.Module, identity: dict[str, dict[str, str]], path: str) -> None:
    modules = dict(model.named_modules())
    for name, digests in identity.items():
        weight = getattr(modules.get(name), "weight", None)
        if weight is None or weight.dtype not in (torch.float32, torch.bfloat16):
            continue
        found = _digest(weight)
        if found == digests["base"]:
            continue
        if found == digests["merged"]:
            raise ValueError(
                f"The adapter {path} is in the model's weights already ({name}): added again it "
                "would be another model. Leave peft out, or give pretrained= the model that the "
                "adapter was trained on."
            )
        logger.warning("%s of the model is not what the adapter %s was trained on.", name, path)


@torch.no_grad()
def _load_whole(base: nn.Module, tensors: dict[str, torch.Tensor], file: str) -> None:
    """Put tensors that trained whole in place; `base` has its adapters."""
    parameters = dict(base.named_parameters(remove_duplicate=False))
    for name, tensor in tensors.items():
        target = parameters.get(name)
        if target is None or target.shape != tensor.shape:
            there = "none" if target is None else str(list(target.shape))
            raise ValueError(
                f"{file} holds {name} {list(tensor.shape)}, but the model has {there}: it was "
                "trained on another model, or with another method. Give pretrained= and method= "
                "as in train.yaml."
            )
        target.copy_(tensor)


def _digest(weight: torch.Tensor) -> str:
    bits = weight.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8)
    return hashlib.sha256(bits.numpy().tobytes()).hexdigest()


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
                f"this name{near_names(target, known) or '.'} This model has "
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
            pieces = {piece for word in known for piece in word.split("_")}
            near = near_names(part, {*known, *pieces}) or "."
            raise ValueError(
                f"No parameter has {part!r} in its name{near} Names are made "
                f"of {', '.join(known)}. Give a part of one (--lora-also)."
            )


def _words(name: str) -> set[str]:
    return set(name.split("_")) - {"proj", "weight"}


def _kinds(names: Collection[str]) -> str:
    return ", ".join(sorted({re.sub(r"\.\d+(?=\.)", ".*", name) for name in names}))


def without_adapters(model: Any) -> Any:
    """Return the transformers model inside PEFT's, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


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
