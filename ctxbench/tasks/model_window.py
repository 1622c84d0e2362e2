"""The window of the model that a task is for, known before and during an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctxbench.core.assets import resolve_model
from ctxbench.core.compat.lm_eval import model_in_use, server_window
from ctxbench.core.lengths import parse_length
from ctxbench.core.refused import readable_config
from ctxbench.core.windows import looks_ahead

_WINDOW_ARGUMENTS = ("max_length", "length", "max_model_len", "context_length")
"""Of `hf` and servers, `ctxext`, `vllm`, `sglang`."""

_WINDOW_FIELDS = ("max_position_embeddings", "n_positions", "max_sequence_length")


def model_window(
    metadata: Mapping[str, Any], model: Any = None, *, scores: bool = False
) -> int | None:
    """Return the tokens the model can hold, None where nothing tells.

    In an evaluation the model itself says it. Outside of one, the model arguments that name a
    window do (lm-eval hands them to tasks), then lm-eval's own default for a server, then the
    config of `pretrained`; a `method` without a length sets the window itself, so None then.

    Args:
        metadata: of the task.
        model: of lm-eval; default the one in use.
        scores: whether requests score given texts: those are cut where prompts are not.
    """
    model = model if model is not None else model_in_use()
    stated = _stated(metadata)
    if model is not None:
        return _own(model, stated, scores) or stated
    if stated is not None:
        return stated
    if "base_url" in metadata:
        return server_window() - 1  # lm-eval's models of servers keep one token back
    return _of_config(metadata)


def _own(model: Any, stated: int | None, scores: bool) -> int | None:
    """Return the window that a model of lm-eval cuts prompts to, if it does."""
    try:
        window = int(getattr(model, "max_length", 0))
    except (TypeError, ValueError, NotImplementedError):
        return None
    # A server that gets texts gets prompts uncut: what lm-eval calls its window is a default.
    uncut = not (scores or getattr(model, "tokenized_requests", True))
    return stated if uncut or window < 1 else window


def _stated(metadata: Mapping[str, Any]) -> int | None:
    for name in _WINDOW_ARGUMENTS:
        if metadata.get(name) not in (None, "auto", -1, "-1"):  # vllm finds it itself
            window = parse_length(metadata[name])
            return window - 1 if "base_url" in metadata else window
    return None


def _of_config(metadata: Mapping[str, Any]) -> int | None:
    if metadata.get("method") or not isinstance(metadata.get("pretrained"), str):
        return None
    from transformers import AutoConfig

    path = resolve_model(metadata["pretrained"])
    try:
        config = readable_config(path) or AutoConfig.from_pretrained(path)
    except (OSError, ValueError):  # not a transformers model: it says itself what does not fit
        return None
    config = config.get_text_config()
    return next((n for field in _WINDOW_FIELDS if (n := getattr(config, field, None))), None)


def check_task_length(length: int, task: str, metadata: Mapping[str, Any]) -> None:
    """Refuse a task that is longer than the model's window, before its prompts are made.

    What a prompt really takes is known later, and decided in `ctxbench.tasks.fit`.

    Raises:
        ValueError: it is.
    """
    model = model_in_use()
    if looks_ahead(model) and model.any_length:
        return
    window = model_window(metadata, model)
    if window is not None and length > window:
        raise ValueError(
            f"{task} has prompts of {length} tokens (answer included), but the model's window is "
            f"{window} tokens, and a harness would cut the prompts silently. Take a shorter task, "
            "or extend the model: --model ctxext with method=... and length=...; a model on a "
            "server has its window in max_length=N."
        )
