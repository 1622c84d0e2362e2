"""Does a task fit the model's window? Said before anything is generated."""

from typing import Any

from ctxbench.core.assets import resolve_model
from ctxbench.core.compat.lm_eval import server_window
from ctxbench.core.lengths import parse_length
from ctxbench.core.refused import readable_config

_WINDOW_ARGUMENTS = ("max_length", "length", "max_model_len", "context_length")
"""Of `hf` and servers, `ctxext`, `vllm`, `sglang`."""

_WINDOW_FIELDS = ("max_position_embeddings", "n_positions", "max_sequence_length")


def model_window(metadata: dict[str, Any]) -> int | None:
    """Return the tokens the model can hold, as far as its arguments or its config tell.

    The model arguments that name a window come first (lm-eval hands them to tasks), then lm-eval's
    own default for a server, then the config of `pretrained`; a `method` without a length sets the
    window itself, so None then.
    """
    for name in _WINDOW_ARGUMENTS:
        if metadata.get(name) not in (None, "auto", -1, "-1"):  # vllm finds it itself
            window = parse_length(metadata[name])
            return window - 1 if "base_url" in metadata else window
    if "base_url" in metadata:
        return server_window() - 1  # lm-eval's models of servers keep one token back
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


def check_task_length(length: int, task: str, metadata: dict[str, Any]) -> None:
    """Refuse a task that is longer than the model's window.

    Raises:
        ValueError: it is.
    """
    window = model_window(metadata)
    if window is not None and length > window:
        raise ValueError(
            f"{task} has prompts of {length} tokens (answer included), but the model's window is "
            f"{window} tokens, and a harness would cut the prompts silently. Take a shorter task, "
            "or extend the model: --model ctxext with method=... and length=...; a model on a "
            "server has its window in max_length=N."
        )
