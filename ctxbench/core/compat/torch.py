"""What is used of torch beyond what it promises."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from ctxbench.core.compat.foreign import Foreign, Hook, Library, Mention, check

if TYPE_CHECKING:
    import torch

TORCH = Library("torch", "2.11 to 2.13", "torch>=2.11,<2.14")

_CPU_ATTENTION = Foreign(
    TORCH,
    "torch",
    "ops.aten._scaled_dot_product_flash_attention_for_cpu",
    "have the log-sum-exp of attention on CPUs, which the public function keeps to itself",
)
_VERSION = Foreign(
    TORCH, "torch", "Tensor._version", "see that a weight was changed since it was last read"
)
_OPERATOR = Foreign(TORCH, "torch._ops", "OpOverload", "ask an operator for its name")
_KERNELS = tuple(
    Foreign(TORCH, "torch", f"ops.aten.{name}", "keep what attention computed for backward")
    for name in (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
)
_FLASH = (
    "flash_attn::_flash_attn_forward",
    "flash_attn::_flash_attn_varlen_forward",
    "flash_attn_3::fwd",
)
_APPLY = Hook(
    TORCH, "torch.nn", "Module._apply", "keep rotary frequencies in float32", "fn, recurse"
)
_GETATTR = Hook(
    TORCH, "torch.nn", "Module.__getattr__", "answer for a rotary module that was replaced", "name"
)
_HOOKS = Mention(
    TORCH, "torch.nn", "Module.register_forward_hook", "tell layers with hooks from others",
    "_forward_hooks",
)  # fmt: skip
ENTRIES = (_CPU_ATTENTION, _VERSION, _OPERATOR, *_KERNELS, _APPLY, _GETATTR, _HOOKS)


def hooks_on(module: torch.nn.Module) -> int:
    """Return how many functions follow the forward pass of a module."""
    return len(_HOOKS.of(module))


def cpu_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention `[B, H, rows, D]` on a CPU and its log-sum-exp `[B, H, rows]`.

    Args:
        query: `[B, H, rows, D]`.
        key: `[B, H, some, D]`.
        value: `[B, H, some, D]`.
        bias: `[rows, some]`, added to the scores.
        scale: on the scores.
    """
    return _cpu_kernel()(query, key, value, 0.0, False, attn_mask=bias, scale=scale)


@cache
def _cpu_kernel() -> Any:
    return _CPU_ATTENTION.find()


def times_written(tensor: torch.Tensor) -> int:
    """Return a count that grows whenever the tensor is written in place."""
    return _VERSION.of(tensor)


def is_attention_kernel(operator: Any) -> bool:
    """Return whether an operator is attention in one fused kernel.

    Raises:
        ForeignChanged: torch has no kernel of a name that is known here.
    """
    kind, names = _kernels()
    return isinstance(operator, kind) and operator.name().partition(".")[0] in names


@cache
def _kernels() -> tuple[type, frozenset[str]]:
    check(_KERNELS)
    ours = (kernel.name.replace("ops.aten.", "aten::") for kernel in _KERNELS)
    return _OPERATOR.find(), frozenset((*ours, *_FLASH))
