"""What the backward pass keeps of each layer, and what it computes again."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from ctxbench.core.compat.torch import is_attention_kernel


def checkpoint_activations(model: Any, mode: str) -> None:
    """Let the layers of a model recompute their activations in the backward pass.

    Args:
        model: of transformers.
        mode: `full` keeps the input of each layer; `selective` also the output of its attention,
            where a fused kernel computes it; `none` keeps everything.
    """
    if mode == "none":
        return
    arguments: dict[str, Any] = {"use_reentrant": False}
    if mode == "selective":
        arguments["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_attention)
    enable = getattr(model, "activation_checkpointing_enable", None)  # its name since 5.2x
    (enable or model.gradient_checkpointing_enable)(arguments)


def _keep_attention(_context: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    # worth its memory: at 32k tokens attention is two fifths of the work
    if is_attention_kernel(operator):
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
