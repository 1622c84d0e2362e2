"""What a run will cost: parameters, operations, memory, hours.

Operations per token, forward and backward, counting causal attention once and no recomputation:
`6 N + 6 L d S`, N the parameters of matrix products, L layers, d the width of attention, S the
length. At length 32768 attention is 39 % of Llama-2-7B's work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ctxbench.assets import resolve_model
from ctxbench.hardware import ASSUMED_MFU, PEAK_TERAFLOPS
from ctxbench.methods.options import near_names
from ctxbench.models.loading import load_config
from ctxbench.train.config import TrainConfig
from ctxbench.train.loss import CHUNK_ELEMENTS

_GIB = 2**30


@dataclass(frozen=True)
class Estimate:
    """Cost of a run; memory per device in bytes.

    Attributes:
        parameters: all of them.
        trained: those with a gradient.
        flops: per token.
        memory: part -> bytes.
    """

    parameters: int
    trained: int
    flops: float
    memory: dict[str, float]


def estimate(config: TrainConfig) -> Estimate:
    """Return the estimated cost, from the model's config alone."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    model_config = load_config(resolve_model(config.model))
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(model_config)
    model.tie_weights()
    parameters = sum(p.numel() for p in model.parameters())
    trained = _lora_parameters(config, model) if config.lora_rank else parameters
    rows = config.micro_batch_size * config.length
    width, layers = model_config.hidden_size, model_config.num_hidden_layers
    wide = getattr(model_config, "intermediate_size", 4 * width)
    one_layer = rows * (2 * (8 * width + 3 * wide) + 4 * 2 * width)
    memory = {
        "weights": 4.0 * (parameters + (trained if config.lora_rank else 0)),
        "gradients": 4.0 * trained,
        "optimizer": (8.0 if config.optimizer == "adamw" else 4.0) * trained,
        "moving average": 4.0 * trained if config.ema_decay else 0.0,
        "layer inputs": 4.0 * rows * width * layers,
        "activations": float(one_layer * (1 if config.activation_checkpointing else layers)),
        "loss": 8.0 * min(CHUNK_ELEMENTS, rows * model_config.vocab_size),
    }
    return Estimate(parameters, trained, flops_per_token(model, config.length), memory)


def describe_estimate(config: TrainConfig, cost: Estimate, processes: int) -> list[str]:
    """Return lines of text for `--dry-run`."""
    total = sum(cost.memory.values())
    parts = ", ".join(f"{k} {v / _GIB:.1f}" for k, v in cost.memory.items() if v)
    work = cost.flops * config.steps * config.tokens_per_step
    lines = [
        f"{config.steps} steps of {config.tokens_per_step:,} tokens "
        f"({config.batch_size} rows of {config.length}) = "
        f"{config.steps * config.tokens_per_step:,} tokens",
        f"{processes} process(es) x {config.micro_batch_size} row(s) x "
        f"{config.accumulation(processes)} micro-steps",
        f"{cost.parameters:,} parameters, {cost.trained:,} trained, "
        f"{cost.flops / 1e9:.2f} GFLOP per token",
        f"memory per device about {total / _GIB:.1f} GiB, estimated: {parts}",
    ]
    for name in ("A100", "H100"):
        hours = work / (PEAK_TERAFLOPS[name] * 1e12 * ASSUMED_MFU) / 3600 / processes
        lines.append(f"about {hours:.2g} hours on {processes} x {name} at {ASSUMED_MFU:.0%} MFU")
    return lines


def flops_per_token(model, length: int) -> float:
    """Return operations per trained token, forward and backward."""
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    products = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    if not config.tie_word_embeddings:
        products -= model.get_input_embeddings().weight.numel()  # a look-up, not a product
    attention = config.num_hidden_layers * config.num_attention_heads * head_dim * length
    return 6.0 * products + 6.0 * attention


def peak_flops(device: torch.device) -> float | None:
    """Return a GPU's dense bfloat16 operations per second, None where unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = [tera for part, tera in PEAK_TERAFLOPS.items() if part in name]
    return known[0] * 1e12 if known else None


def _lora_parameters(config: TrainConfig, model) -> int:
    total, found = 0, set()
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if last in config.lora_targets:
            found.add(last)
            total += config.lora_rank * sum(module.weight.shape)
    if missing := set(config.lora_targets) - found:
        linear = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if _is_linear(m)}
        raise ValueError(
            f"lora_targets: the model has no layer {', '.join(sorted(missing))}"
            f"{near_names(min(missing), linear)} Its linear layers: {', '.join(sorted(linear))}. "
            "Name some of these."
        )
    return total


def _is_linear(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear)
