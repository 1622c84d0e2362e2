"""What a run will cost: parameters, operations, memory, hours.

Operations are those of `core.cost`; at length 32768 attention is 39 % of Llama-2-7B's. Memory is
what each part of a step holds, taken at the moment that needs most; see `peak_memory`. It holds for
decoders like Llama with a fused attention kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ctxbench.core.cost import ASSUMED_MFU, GIB, GPUS, Shape, gpu_device, model_shape
from ctxbench.methods.attach import method_of
from ctxbench.train.config import TrainConfig
from ctxbench.train.loss import CHUNK_ELEMENTS
from ctxbench.train.model import empty_model, trainable_model


@dataclass(frozen=True)
class TrainingCost:
    """Cost of a run; memory per device in bytes.

    Attributes:
        shape: of the model.
        flops: per token, without what is computed twice.
        computed_flops: per token, with it.
        memory: part -> bytes, at the moment that needs most.
        saved: bytes of a checkpoint, over all devices.
    """

    shape: Shape
    flops: float
    computed_flops: float
    memory: dict[str, float]
    saved: float


def training_cost(config: TrainConfig, processes: int | None = None) -> TrainingCost:
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
    flops = shape.training_flops(reach)
    again = {"none": 0.0, "selective": shape.forward_flops(0), "full": shape.forward_flops(reach)}
    return TrainingCost(
        shape=shape,
        flops=flops,
        computed_flops=flops + again[config.activation_checkpointing],
        memory=peak_memory(config, shape, processes or config.processes or 1),
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


def describe_cost(config: TrainConfig, cost: TrainingCost, processes: int) -> list[str]:
    """Return lines of text for `--dry-run`."""
    total = sum(cost.memory.values())
    parts = ", ".join(f"{k} {v / GIB:.1f}" for k, v in cost.memory.items() if v)
    work = cost.flops * config.steps * config.tokens_per_step
    lines = [
        f"{config.steps} steps of {config.tokens_per_step:,} tokens "
        f"({config.batch_size} rows of {config.length}) = "
        f"{config.steps * config.tokens_per_step:,} tokens",
        f"{processes} process(es) x {config.micro_batch_size} row(s) x "
        f"{config.accumulation(processes)} micro-steps"
        + (f", rows shared by {config.sequence_parallel}" if config.sequence_parallel > 1 else "")
        + (f", weights cut over {config.shard}" if config.shard > 1 else ""),
        f"{cost.shape.parameters:,} parameters, {cost.shape.trained:,} trained, "
        f"{cost.flops / 1e9:.2f} GFLOP per token ({cost.computed_flops / 1e9:.2f} with what is "
        "computed again)",
        f"memory per device about {total / GIB:.1f} GiB, estimated: {parts}",
        f"a checkpoint takes {cost.saved / GIB:.1f} GiB of disk",
    ]
    for name in ("A100", "H100"):
        hours = gpu_device(name).seconds(work) / 3600 / processes
        lines.append(f"about {hours:.2g} hours on {processes} x {name} at {ASSUMED_MFU:.0%} MFU")
    return lines


def flops_per_token(model: Any, length: int) -> float:
    """Return operations per trained token, forward and backward, of rows of a length."""
    return model_shape(model).training_flops(method_of(model).training_span(length))


def peak_flops(device: torch.device) -> float | None:
    """Return a GPU's dense bfloat16 operations per second, None where unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((gpu_device(known, mfu=1).flops for known in GPUS if known in name), None)


def _optimizer_bytes(config: TrainConfig) -> float:
    """Return bytes per trained parameter."""
    return 8.0 if config.optimizer == "adamw" else 4.0
