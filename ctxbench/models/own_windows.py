"""Sliding windows that a model has of its own: told, and taken away where a user asks."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

from ctxbench.core.errors import shown
from ctxbench.core.own_window import SLIDING, OwnWindow, own_window
from ctxbench.methods.anatomy import layer_types
from ctxbench.methods.rope_settings import WHOLE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ctxbench.methods.base import Method

log = logging.getLogger(__name__)


def warn_windows(config: PreTrainedConfig, method: Method) -> None:
    """Say once that a model's layers do not see as far as the length that was asked for.

    Args:
        config: as it will be loaded.
        method: resolved.
    """
    text = config.get_text_config()
    found = own_window(text)
    if found is not None and method.length and found.tokens < method.length:
        _warn(found, int(method.length), bool(layer_types(text)))


@cache
def _warn(found: OwnWindow, length: int, nested: bool) -> None:
    log.warning(
        "sliding_window=%d: in %s of this model a token sees the last %d tokens only, at length=%d "
        "as before. A method changes nothing about that.%s", found.tokens, found.where,
        found.tokens, length,
        "" if nested else " sliding_window=none takes the window away (no model is trained so).",
    )  # fmt: skip


def remove_windows(config: PreTrainedConfig, asked: Any) -> None:
    """Let every layer see the whole text, in a config, where that was asked.

    Args:
        config: of the checkpoint; changed.
        asked: `none`, or None for the model as it is.

    Raises:
        ValueError: something else was asked, or it makes no sense for this model.
    """
    if asked is None:
        return
    if str(asked).lower() != "none":
        raise ValueError(
            f"sliding_window={shown(asked)} is not allowed; sliding_window=none takes a model's "
            "own windows away, and without it they stay. Give one of the two."
        )
    text = config.get_text_config()
    found = own_window(text)
    if found is None:
        raise ValueError(
            f"sliding_window=none was given, but this {text.model_type} model has no sliding "
            "window. Leave it out."
        )
    if layer_types(text):
        raise ValueError(
            f"sliding_window=none was given, but the sliding layers of this {text.model_type} "
            "model have rotary settings of their own, made for the window; they cannot see the "
            "whole text. Leave it out."
        )
    text.sliding_window = None
    if getattr(text, "layer_types", None):
        text.layer_types = [WHOLE if kind == SLIDING else kind for kind in text.layer_types]
    if getattr(text, "use_sliding_window", None):
        text.use_sliding_window = False
