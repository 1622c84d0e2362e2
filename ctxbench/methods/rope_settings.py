"""The rotary settings of a config: one for all layers, or one for each type of layer.

Gemma-3, OLMo-3 or ModernBERT's decoder have settings for each type. Layers that see a window only
never meet a longer distance, so a method extends those that see the whole text.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WHOLE = "full_attention"
"""Type of the layers that see the whole text."""
SCALINGS = ("linear", "dynamic", "yarn", "longrope", "llama3")
"""Rope types of transformers that extend a model; others are what a model was made with."""
TABLE_BASE = 10_000.0
"""Of GPT-J and CodeGen, whose tables of sines state no base in their config."""


def is_nested(parameters: dict[str, Any]) -> bool:
    """Return whether settings are given for each type of layer."""
    return bool(parameters) and all(
        value is None or isinstance(value, dict) for value in parameters.values()
    )


def rope_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the settings of the layers that see the whole text; empty where there are none."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if is_nested(parameters):
        return dict(parameters.get(WHOLE) or {})
    if not parameters and getattr(config, "rotary_dim", None) and has_table(config):
        return {"rope_type": "default", "rope_theta": TABLE_BASE}
    return dict(parameters)


def set_rope_settings(config: PreTrainedConfig, settings: dict[str, Any]) -> None:
    """Put settings of the layers that see the whole text into a config."""
    parameters = getattr(config, "rope_parameters", None) or {}
    config.rope_parameters = {**parameters, WHOLE: settings} if is_nested(parameters) else settings


def has_table(config: PreTrainedConfig) -> bool:
    """Return whether a model reads a table of sines made for its whole window."""
    return config.model_type in ("gptj", "codegen")


def head_dim(config: PreTrainedConfig) -> int:
    """Return the dimension of a head; where rotated and other parts differ, of the rotated."""
    try:
        own = getattr(config, "head_dim", None)
        return int(own or config.hidden_size // config.num_attention_heads)
    except RuntimeError as error:  # transformers' for settings that differ by layer
        raise ValueError(
            f"The heads of this {config.model_type} model differ from layer to layer, which "
            "ctxbench does not extend. Use another model."
        ) from error


def rotary_dim(config: PreTrainedConfig, kind: str | None = None) -> int:
    """Return `d`: how many of a head's dimensions are rotated.

    Args:
        config: of a model.
        kind: type of layers, where each has settings; default those that see the whole text.
    """
    if has_table(config) and getattr(config, "rotary_dim", None):
        return int(config.rotary_dim)
    settings = config.rope_parameters[kind] if kind else rope_settings(config)
    return int(head_dim(config) * (settings.get("partial_rotary_factor") or 1.0))


def own_length(config: PreTrainedConfig) -> int:
    """Return the window that a config states, tokens.

    Raises:
        ValueError: it states none.
    """
    for name in ("max_position_embeddings", "model_max_length"):
        with suppress(NotImplementedError):  # XLNet's says so
            if window := getattr(config, name, None):
                return int(window)
    raise ValueError(
        f"The config of this {config.model_type} model states no window (max_position_embeddings), "
        "so no length can be told from it. Use another model."
    )


def rotary_base(config: PreTrainedConfig) -> float:
    """Return `b`, the model's own rotary base (`rope_theta`)."""
    return float(rope_settings(config)["rope_theta"])
