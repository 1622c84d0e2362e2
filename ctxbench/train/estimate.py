"""What a run will cost: parameters, operations, memory, hours.

Operations per token, forward and backward, counting causal attention once and no recomputation:
`4 N + 2 N_t + 6 L d S`, N the parameters of matrix products, N_t those that train, L layers, d the
width of attention, S how far attention reaches. At length 32768 attention is 39 % of Llama-2-7B's
work. Memory is what each part of a step holds, taken at the moment that needs most; see
`peak_memory`. It holds for decoders like Llama with a fused attention kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ctxbench.core.hardware import ASSUMED_MFU, PEAK_TERAFLOPS
from ctxbench.methods.attach import method_of
from ctxbench.train.config import TrainConfig
from ctxbench.train.loss import CHUNK_ELEMENTS
from ctxbench.train.model import empty_model, trainable_model

_GIB = 2**30


@dataclass(frozen=True)
class Estimate:
    """Cost of a run; memory per device in bytes.

    Attributes:
        parameters: all of them.
        trained: those with a gradient.
        flops: per token, without what is computed twice.
        computed_flops: per token, with it.
        memory: part -> bytes, at the moment that needs most.
        saved: bytes of a checkpoint, over all devices.
    """

    parameters: int
    trained: int
    flops: float
    computed_flops: float
    memory: dict[str, float]
    saved: float


@dataclass(frozen=True)
class Shape:
    """What of a model its cost depends on.

    Attributes:
        parameters: all of them.
        trained: those with a gradient.
        products: parameters of matrix products.
        trained_products: of them, those with a gradient.
        outside: parameters outside the layers: embeddings, output layer, last norm.
        layers: number of decoder layers.
        width: of the hidden states.
        query_width: heads x head_dim.
        key_width: key heads x head_dim.
        inner: width of the feed-forward part.
        gated: whether the feed-forward part has a gate.
        vocabulary: tokens.
        trained_head: whether the output layer has a gradient.
    """

    parameters: int
    trained: int
    products: int
    trained_products: int
    outside: int
    layers: int
    width: int
    query_width: int
    key_width: int
    inner: int
    gated: bool
    vocabulary: int
    trained_head: bool


def estimate(config: TrainConfig, processes: int | None = None) -> Estimate:
    """Return the estimated cost, from the model's config alone.

    Args:
        config: of the run.
        processes: that run it; default the config's, else 1.

    Raises:
        ValueError, FileNotFoundError: as building the model would.
    """
    with torch.device("meta"):
        model = trainable_model(empty_model(config)[0], config)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    shape = model_shape(model)
    reach = method_of(base).training_span(config.length)  # type: ignore[arg-type]
    products, attention = _operations(shape, reach)
    again = {"none": 0.0, "selective": products[0], "full": products[0] + attention / 3}
    memory = peak_memory(config, shape, processes or config.processes or 1)
    return Estimate(
        parameters=shape.parameters,
        trained=shape.trained,
        flops=sum(products) + attention,
        computed_flops=sum(products) + attention + again[config.activation_checkpointing],
        memory=memory,
        saved=shape.trained * (4.0 + _optimizer_bytes(config) + (4.0 if config.ema_decay else 0.0)),
    )


def peak_memory(config: TrainConfig, shape: Shape, processes: int = 1) -> dict[str, float]:
    """Return part -> bytes per device at the moment of an update that needs most.

    With n tokens of a row on a device, c bytes of the computation's type, d, q, k, f the widths of
    hidden states, queries, keys and feed-forward part, float32 for weights and between layers:

    - weights, gradients and optimizer of trained parameters: 4 + 4 + 8 bytes (4 of Muon);
    - the input of each layer, kept through the forward pass: 4 n d;
    - what a layer keeps for its backward pass: `n (12 d + c (2 d + 2 q + 2 k + 4 f))`, of a
      gate-less one 2 f in place of 4 f; and with c below 4 its weights in that type;
    - what its backward pass adds: `n (4 d + 2 c f)`;
    - the loss: two chunks of logits in float32, the gradients of hidden states and output layer.

    The moments: the backward pass of the last layer, when all inputs are there, and of the first,
    when all gradients are.
    """
    compute = 4 if config.dtype == "fp32" else 2
    tokens = config.micro_batch_size * -(-config.length // config.sequence_parallel)
    cut = config.shard
    accumulates = config.accumulation(processes) > 1
    gradients = 4.0 * shape.trained / cut
    held = {
        "weights": 4.0 * shape.parameters / cut,
        "optimizer": _optimizer_bytes(config) * shape.trained / cut,
        "moving average": 4.0 * shape.trained / cut if config.ema_decay else 0.0,
    }
    layer_parameters = (shape.parameters - shape.outside) / shape.layers
    if cut > 1:  # gathered: what is outside the layers, this layer and the next, and gradients
        held["gathered weights"] = 4.0 * (2 * shape.outside + 3 * layer_parameters)

    inner = (4 if shape.gated else 2) * shape.inner
    widths = 2 * shape.width + 2 * shape.query_width + 2 * shape.key_width + inner
    layer = tokens * (12.0 * shape.width + compute * widths)
    layer += compute * layer_parameters if compute < 4 else 0.0
    working = tokens * (4.0 * shape.width + 2.0 * compute * shape.inner)
    entry = 4.0 * tokens * shape.width
    kept = {"none": layer, "selective": entry + compute * tokens * shape.query_width, "full": entry}
    per_layer = kept[config.activation_checkpointing]
    if config.activation_offload:
        per_layer -= entry
    recomputed = 0.0 if config.activation_checkpointing == "none" else layer
    chunk = min(CHUNK_ELEMENTS, tokens * shape.vocabulary)
    head = 4.0 * shape.vocabulary * shape.width * shape.trained_head
    loss = 8.0 * chunk + 2 * entry + head
    moments = [
        {  # the loss
            "gradients": gradients if accumulates else 0.0,
            "layer inputs": shape.layers * per_layer,
            "loss": loss,
        },
        {  # the backward pass of the last layer
            "gradients": gradients if accumulates else head / cut,
            "layer inputs": shape.layers * per_layer,
            "activations": recomputed + working,
            "loss": 2 * entry,
        },
        {  # and of the first
            "gradients": gradients,
            "layer inputs": per_layer,
            "activations": recomputed + working,
        },
    ]
    return {**held, **max(moments, key=lambda moment: sum(moment.values()))}


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
        f"{config.accumulation(processes)} micro-steps"
        + (f", rows shared by {config.sequence_parallel}" if config.sequence_parallel > 1 else "")
        + (f", weights cut over {config.shard}" if config.shard > 1 else ""),
        f"{cost.parameters:,} parameters, {cost.trained:,} trained, "
        f"{cost.flops / 1e9:.2f} GFLOP per token ({cost.computed_flops / 1e9:.2f} with what is "
        "computed again)",
        f"memory per device about {total / _GIB:.1f} GiB, estimated: {parts}",
        f"a checkpoint takes {cost.saved / _GIB:.1f} GiB of disk",
    ]
    for name in ("A100", "H100"):
        hours = work / (PEAK_TERAFLOPS[name] * 1e12 * ASSUMED_MFU) / 3600 / processes
        lines.append(f"about {hours:.2g} hours on {processes} x {name} at {ASSUMED_MFU:.0%} MFU")
    return lines


def model_shape(model: Any) -> Shape:
    """Return what the cost of a model depends on; its parameters may be on no device."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config, named = base.config, dict(model.named_parameters())
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    entry = None if config.tie_word_embeddings else base.get_input_embeddings().weight
    products = [p for p in named.values() if p.ndim == 2 and p is not entry]  # which is a look-up
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return Shape(
        parameters=sum(p.numel() for p in named.values()),
        trained=sum(p.numel() for p in named.values() if p.requires_grad),
        products=sum(p.numel() for p in products),
        trained_products=sum(p.numel() for p in products if p.requires_grad),
        outside=sum(p.numel() for name, p in named.items() if ".layers." not in name),
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        query_width=heads * head_dim,
        key_width=key_heads * head_dim,
        inner=inner,
        gated=any("gate" in name for name in named),
        vocabulary=config.vocab_size,
        trained_head=base.get_output_embeddings().weight.requires_grad,
    )


def flops_per_token(model: Any, length: int) -> float:
    """Return operations per trained token, forward and backward, of rows of a length."""
    products, attention = _operations(model_shape(model), method_of(model).training_span(length))
    return sum(products) + attention


def peak_flops(device: torch.device) -> float | None:
    """Return a GPU's dense bfloat16 operations per second, None where unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = [tera for part, tera in PEAK_TERAFLOPS.items() if part in name]
    return known[0] * 1e12 if known else None


def _operations(shape: Shape, reach: int) -> tuple[tuple[float, float, float], float]:
    """Return operations per token of products (forward; to inputs; to weights) and attention."""
    products = 2.0 * shape.products, 2.0 * shape.products, 2.0 * shape.trained_products
    return products, 6.0 * shape.layers * shape.query_width * reach


def _optimizer_bytes(config: TrainConfig) -> float:
    """Return bytes per trained parameter."""
    return 8.0 if config.optimizer == "adamw" else 4.0
