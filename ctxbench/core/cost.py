"""What a model costs: operations and bytes of a token, and what a device makes of them.

With N the parameters of matrix products, N_t those of them that train, L layers, d the width of
attention and S the tokens it reaches, a token takes `2 N + 2 L d S` operations forward, causal
attention counted once. Backward, the products take `2 N + 2 N_t` and attention `4 L d S`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ctxbench.core.errors import near_names

GPUS = {
    "A100": (312, 2.0, 80),
    "H100": (989, 3.35, 80),
    "H200": (989, 4.8, 140),
    "GH200": (989, 4.0, 96),
}
"""Dense bfloat16, TFLOP/s; memory, TB/s; its size, GiB: NVIDIA's data sheets (80 GB SXM; GH200 with
HBM3)."""
CORE_GIGAFLOPS = 60
"""Assumed of one CPU core on a model of the bundled size; measured: 45 to 90."""
ASSUMED_MFU = 0.4
"""Share of the peak that is assumed to be reached."""
GIB = 2**30


@dataclass(frozen=True)
class Device:
    """What one device does per second.

    Attributes:
        name: of the GPU, or `cpu`.
        flops: operations, of those it reaches.
        bandwidth: bytes to and from its memory.
        memory: bytes it has; infinite where it is not known.
    """

    name: str
    flops: float
    bandwidth: float
    memory: float = math.inf

    def seconds(self, flops: float, moved: float = 0.0) -> float:
        """Return the time of operations, or of the bytes that must be moved for them."""
        return max(flops / self.flops, moved / self.bandwidth)


CPU_CORE = Device("cpu", CORE_GIGAFLOPS * 1e9, 0.01e12)
"""Its bandwidth is assumed."""


def gpu_device(name: str, mfu: float = ASSUMED_MFU, also: str = "") -> Device:
    """Return a GPU at a share of its peak.

    Raises:
        ValueError: it is not known; `also` is said of what else is allowed.
    """
    if name not in GPUS:
        raise ValueError(
            f"--gpu {name!r} is not known{near_names(name, GPUS)} Known: {', '.join(GPUS)}{also}. "
            "Give one of these, and --mfu to match yours."
        )
    peak, bandwidth, memory = GPUS[name]
    return Device(name, peak * 1e12 * mfu, bandwidth * 1e12, memory * GIB)


@dataclass(frozen=True, kw_only=True)
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

    def forward_flops(self, reach: float) -> float:
        """Return operations per token that reaches so many."""
        return 2.0 * self.products + self._attention_flops(reach)

    def training_flops(self, reach: float) -> float:
        """Return operations per trained token, forward and backward, nothing computed again."""
        products = 4.0 * self.products + 2.0 * self.trained_products
        return products + 3 * self._attention_flops(reach)

    def _attention_flops(self, reach: float) -> float:
        return 2.0 * self.layers * self.query_width * reach

    def cache_bytes(self, itemsize: int) -> int:
        """Return the bytes of keys and values per token."""
        return 2 * self.layers * self.key_width * itemsize

    def forward_bytes(self, itemsize: int) -> int:
        """Return an estimate of the bytes a forward pass needs per token and row.

        Keys and values of all layers, and the widest activations of one layer (the feed-forward
        part: three of `inner`, four of `width`), the norm's in float32.
        """
        active = 3 * self.inner * itemsize + 4 * self.width * max(itemsize, 4)
        return self.cache_bytes(itemsize) + active


def model_shape(model: Any) -> Shape:
    """Return what the cost of a model depends on; its parameters may be on no device."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config, named = base.config, dict(model.named_parameters())
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    entry = None if config.tie_word_embeddings else base.get_input_embeddings().weight
    products = [p for p in named.values() if p.ndim == 2 and p is not entry]  # which is a look-up
    return Shape(
        parameters=sum(p.numel() for p in named.values()),
        trained=sum(p.numel() for p in named.values() if p.requires_grad),
        products=sum(p.numel() for p in products),
        trained_products=sum(p.numel() for p in products if p.requires_grad),
        outside=sum(p.numel() for name, p in named.items() if ".layers." not in name),
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        query_width=heads * head_dim,
        key_width=(getattr(config, "num_key_value_heads", None) or heads) * head_dim,
        inner=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        gated=any("gate" in name for name in named),
        vocabulary=config.vocab_size,
        trained_head=base.get_output_embeddings().weight.requires_grad,
    )
