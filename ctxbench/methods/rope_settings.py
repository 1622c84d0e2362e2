"""The rotary settings of a config: one for all layers, or one for each type of layer.

Gemma-3, OLMo-3 or ModernBERT's decoder have settings for each type. Layers that see a window only
never meet a longer distance, so a method extends those that see the whole text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WHOLE = "full_attention"
"""Type of the layers that see the whole text."""
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
    own = getattr(config, "head_dim", None)
    return int(own or config.hidden_size // config.num_attention_heads)


def rotary_dim(config: PreTrainedConfig) -> int:
    """Return `d`: how many of a head's dimensions are rotated."""
    if has_table(config) and getattr(config, "rotary_dim", None):
        return int(config.rotary_dim)
    return int(head_dim(config) * (rope_settings(config).get("partial_rotary_factor") or 1.0))


def rotary_base(config: PreTrainedConfig) -> float:
    """Return `b`, the model's own rotary base (`rope_theta`)."""
    return float(rope_settings(config)["rope_theta"])
