"""Configs that plain transformers refuses, because it would compute the model wrongly.

Such a checkpoint has a `rope_type` that names the method it needs, and the real one in its record.
Most configs carry it until a model is made of them; Phi-3's does not even load, which is more than
was meant: its tokenizer and its window are as good as any.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PREFIX = "needs_ctxbench_"
"""Of the `rope_type`."""


def is_refused(raw: dict[str, Any]) -> bool:
    """Return whether the content of a config.json was made to be refused."""
    parameters = raw.get("rope_parameters") or {}
    return str(parameters.get("rope_type", "")).startswith(PREFIX)


def restore(raw: dict[str, Any], rope_parameters: dict[str, Any]) -> "PreTrainedConfig":
    """Return the config with the rotary parameters of its record."""
    from transformers import CONFIG_MAPPING

    older = ("rope_scaling", "rope_theta")
    raw = {name: value for name, value in raw.items() if name not in older}
    raw["rope_parameters"] = dict(rope_parameters)
    return CONFIG_MAPPING[raw.pop("model_type")].from_dict(raw)


def readable_config(path: str, revision: str | None = None) -> "PreTrainedConfig | None":
    """Return a config to read a checkpoint's tokenizer with.

    Args:
        path: folder or hub id.
        revision: of a hub id.

    Returns:
        None where transformers reads the one on the disk, or where there is none.
    """
    from transformers import PreTrainedConfig

    try:
        raw, _ = PreTrainedConfig.get_config_dict(path, revision=revision)
        return restore(raw, raw["ctxbench"]["rope_parameters"]) if is_refused(raw) else None
    except (OSError, ValueError, KeyError, TypeError):  # whoever loads the model says what is wrong
        return None
