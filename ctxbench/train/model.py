"""The model that a run trains, with its method and in float32, and its optimizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from ctxbench.core.assets import resolve_model
from ctxbench.methods.adapters import add_adapters, attention_layers
from ctxbench.methods.attach import attach, method_of
from ctxbench.models.checks import check_tokenizer
from ctxbench.models.choosing import choose_method
from ctxbench.models.loading import edited_config, load_config, load_model, load_tokenizer
from ctxbench.train.activations import checkpoint_activations
from ctxbench.train.config import TrainConfig
from ctxbench.train.induction import induction_start

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ctxbench.methods.base import Method

_MUON_REST = 0.3
"""Learning rate of AdamW, for embeddings and vectors, beside Muon's."""


def build_model(config: TrainConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model to train, extended by its method, float32, and its tokenizer.

    Raises:
        ValueError: the method or its options do not suit the model.
        FileNotFoundError: no such model.
    """
    # New parameters (from nothing, adapters, a method's own) draw from the global generator.
    torch.manual_seed(config.seed)
    options = {"length": config.length, "training": True, **config.options}
    if config.init == "pretrained":
        model, tokenizer = load_model(
            config.model,
            config.method,
            dtype=torch.float32,
            attn_implementation=config.attention,
            **options,
        )
    else:
        model, tokenizer = _from_nothing(config)
    checkpoint_activations(model, config.activation_checkpointing)
    return model.train(), tokenizer


def trainable_model(model: PreTrainedModel, config: TrainConfig) -> nn.Module:
    """Return the model with `requires_grad` set as the method, and LoRA, want it.

    Raises:
        ValueError: LoRA was asked for a method that brings its own.
    """
    method = method_of(model)
    trained = method.trainable(model)
    if config.lora_rank:
        if trained is not model:
            raise ValueError(
                f"lora_rank={config.lora_rank}, but method={method.name} brings its own "
                "adapters. Leave out lora_rank and what belongs to it; the method's options "
                "(--option rank=...) set them."
            )
        targets = _targets(config, model)
        trained = add_adapters(
            model, config.lora_rank, config.lora_alpha, targets, config.lora_also
        )
    for tensor in method.state_tensors(model).values():  # a method's own are never frozen
        if isinstance(tensor, nn.Parameter):
            tensor.requires_grad_(True)
    for name, parameter in trained.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            raise ValueError(
                f"The parameter {name} is {parameter.dtype}. Trained weights must be float32: at a "
                "learning rate of 2e-5 bfloat16 weights do not move. Load them in float32 and "
                "compute in bfloat16 (--dtype bf16)."
            )
    return trained


def _targets(config: TrainConfig, model: PreTrainedModel) -> Sequence[str]:
    """Return the layers to adapt: where the default has a name of other models, attention's."""
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    default = TrainConfig().lora_targets
    if config.lora_targets == default and not names.issuperset(default):
        return attention_layers(model)
    return config.lora_targets


def trained_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return what training changes, by name: parameters, and the method's own tensors."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    known = {_address(tensor) for tensor in trained.values()}
    own = own_tensors(model)
    return {**trained, **{f"method.{k}": t for k, t in own.items() if _address(t) not in known}}


def own_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return what the method adds to the weights, by name."""
    causal: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return method_of(causal).state_tensors(causal)


def own_names(model: nn.Module, trained: Mapping[str, torch.Tensor]) -> set[str]:
    """Return which of the trained tensors the method adds to the weights."""
    own = {_address(tensor) for tensor in own_tensors(model).values()}
    return {name for name, tensor in trained.items() if _address(tensor) in own}


def _address(tensor: torch.Tensor) -> int:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).data_ptr()


def make_optimizers(config: TrainConfig, model: nn.Module) -> list[torch.optim.Optimizer]:
    """Return the optimizers; each group's `scale` multiplies the learning rate."""
    own = {id(tensor) for tensor in own_tensors(model).values()}
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad and id(p) not in own]
    matrices = [p for name, p in named if p.ndim == 2 and _in_layers(name)]
    # embeddings, and the experts of mixtures, which are stacked
    others = [p for name, p in named if p.ndim > 2 or (p.ndim == 2 and not _in_layers(name))]
    vectors = [p for _, p in named if p.ndim < 2]
    added = [p for p in model.parameters() if p.requires_grad and id(p) in own]
    muon: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        group = {"params": matrices, "scale": 1.0}
        muon = [torch.optim.Muon([group], lr=config.lr, weight_decay=config.weight_decay)]
        decayed, scale = others, _MUON_REST
    else:
        decayed, scale = matrices + others, 1.0
    assert len(named) == len(matrices) + len(others) + len(vectors)
    groups = [
        {"params": decayed, "scale": scale, "weight_decay": config.weight_decay},
        {"params": vectors, "scale": scale, "weight_decay": 0.0},
        {"params": added, "scale": config.own_lr, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=(config.betas[0], config.betas[1]),
        eps=config.eps,
        fused=True,
    )
    return [*muon, adamw]


def _in_layers(name: str) -> bool:
    return ".layers." in name or ".h." in name


def empty_model(config: TrainConfig) -> tuple[PreTrainedModel, Method]:
    """Return a model with its method and weights that are not set; its tokenizer is not read.

    On the device `meta` (`with torch.device("meta")`) it costs nothing.
    """
    from transformers import AutoModelForCausalLM

    options = {"length": config.length, "training": True, **config.options}
    model_config = load_config(resolve_model(config.model))
    method, record = choose_method(model_config, config.method, **options)
    edited_config(model_config, method, record)
    model = AutoModelForCausalLM.from_config(
        model_config, dtype=torch.float32, attn_implementation=config.attention
    )
    attach(model, method)
    return model, method


def _from_nothing(config: TrainConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model, method = empty_model(config)
    if config.init == "induction":
        induction_start(model, torch.Generator().manual_seed(config.seed))
    tokenizer = load_tokenizer(resolve_model(config.model))
    method.edit_tokenizer(tokenizer)
    check_tokenizer(model, tokenizer)
    return model, tokenizer
