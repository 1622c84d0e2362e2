"""The result of a run: a checkpoint folder that says how it was made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ctxbench import __version__
from ctxbench.core.atomic_file import sync, sync_all
from ctxbench.core.tensor_files import save_tensors
from ctxbench.methods.adapters import ADAPTER, TRAINED_WHOLE, write_identity
from ctxbench.methods.attach import method_of
from ctxbench.methods.base import describe
from ctxbench.models.loading import save_model
from ctxbench.train.config import TrainConfig, config_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def export_model(
    config: TrainConfig,
    model,
    tokenizer: PreTrainedTokenizerBase,
    *,
    recipe: str | None = None,
    command: str = "",
    compare: Callable[[Path], str | None] = lambda folder: None,
) -> str | None:
    """Write weights, config with the record, tokenizer and model card into `config.output`.

    Adapters are saved in `adapter/` as they are, parameters trained whole beside them in
    `trained_whole.safetensors`, and both merged into the weights. Files are written to
    a temporary folder and moved, `config.json` last: a folder without one is no checkpoint, so
    that nobody reads an earlier result mixed with this one.

    Args:
        config: of the run.
        model: trained; its adapters are merged, in place.
        tokenizer: saved too.
        recipe: its name, for the card.
        command: what was typed, for the card.
        compare: told the temporary folder; says how it differs from what trained.

    Returns:
        What `compare` said; then the temporary folder stays and nothing was moved.
    """
    output = Path(config.output)
    building = output / "export.tmp"
    shutil.rmtree(building, ignore_errors=True)
    adapted = hasattr(model, "merge_and_unload")
    if adapted:
        _save_adapter(model, building / ADAPTER)
        model = model.merge_and_unload()
    save_model(model, tokenizer, building, trained_length=config.length)
    card = model_card(config, model, adapted=adapted, recipe=recipe, command=command)
    (building / "README.md").write_text(card, encoding="utf-8")
    if problem := compare(building):
        return problem
    sync_all(building)
    (output / "config.json").unlink(missing_ok=True)
    for item in sorted(building.iterdir(), key=lambda item: item.name == "config.json"):
        target = output / item.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(item, target)
    sync(output)
    building.rmdir()
    return None


def reshard(network: nn.Module) -> None:
    """Drop whole weights kept after a forward pass, so that the next one sees changed ones."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@torch.no_grad()
def gather_weights(network: nn.Module) -> None:
    """Put whole weights in host memory in place of sharded ones; all processes have to call it.

    The network is then good for exporting only. Nothing happens where nothing is sharded.
    """
    reshard(network)
    found: dict[int, nn.Parameter] = {}
    for module in network.modules():
        named = list(module.named_parameters(recurse=False, remove_duplicate=False))
        for name, parameter in named:
            if not isinstance(parameter, DTensor):
                continue
            if id(parameter) not in found:  # tied weights stay tied
                gathered = parameter.full_tensor().cpu()
                found[id(parameter)] = nn.Parameter(gathered, parameter.requires_grad)
            setattr(module, name, found[id(parameter)])


def _save_adapter(model, folder: Path) -> None:
    """Save adapters, and the other parameters that trained under their names without PEFT."""
    model.save_pretrained(folder, save_embedding_layers=False)
    whole = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.get_base_model().named_parameters()
        if parameter.requires_grad and "lora_" not in name
    }
    if whole:
        save_tensors(whole, folder / TRAINED_WHOLE)
    write_identity(model, folder)


def model_card(
    config: TrainConfig,
    model,
    *,
    adapted: bool = False,
    recipe: str | None = None,
    command: str = "",
) -> str:
    """Return the model card: method, recipe, data, tokens, command."""
    method = method_of(model)
    plain = (
        "Plain `transformers` computes the same: `AutoModelForCausalLM.from_pretrained(FOLDER)`."
        if method.plain_checkpoint(model.config)
        else "Plain `transformers` would compute something else and refuses the config. Open it "
        "with `ctxbench.load_model(FOLDER)` or `lm_eval --model ctxext`."
    )
    data = ", ".join(f"`{source}`" for source in config.data)
    stages = [
        f"- first {stage.steps} steps at length {stage.length}: {', '.join(stage.data)}"
        for stage in config.stages
    ]
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            f"base_model: {config.model}",
            "tags: [long-context, ctxbench]",
            "---",
            f"# {config.model}, {method.name}, {config.length} tokens",
            "",
            plain,
            "",
            f"- method: `{describe(method)}`",
            f"- recipe: {recipe or 'none'}; settings hash `{config_hash(config)}`, "
            "all settings in `train.yaml`",
            f"- begun from: {config.init} weights of {config.model}",
            f"- data: {data}",
            *stages,
            f"- tokens: {config.steps * config.tokens_per_step}, in {config.steps} updates of "
            f"{config.batch_size} rows of {config.length}",
            f"- optimizer: {config.optimizer}, peak learning rate {config.lr:g}, "
            f"{config.warmup} warm-up steps, then {config.schedule}",
            *(["- low-rank adapters, merged; as they were in `adapter/`"] if adapted else []),
            *([f"- moving average of the weights, {config.ema_decay}"] if config.ema_decay else []),
            f"- made by ctxbench {__version__}: `{command or 'ctxbench.train'}`",
            "",
        ]
    )
