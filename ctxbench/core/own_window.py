"""The sliding window that a model has of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SLIDING = "sliding_attention"


@dataclass(frozen=True)
class OwnWindow:
    """The window of a model's own.

    Attributes:
        tokens: that a token sees, itself included.
        layers: how many layers have it.
        of: how many layers there are.
    """

    tokens: int
    layers: int
    of: int

    @property
    def where(self) -> str:
        """Which layers have it."""
        return "every layer" if self.layers == self.of else f"{self.layers} of {self.of} layers"

    def __str__(self) -> str:
        return f"{self.tokens} tokens in {self.where}"


def own_window(config: Any) -> OwnWindow | None:
    """Return the sliding window of a model; None: every layer sees the whole text."""
    window, of = getattr(config, "sliding_window", None), int(config.num_hidden_layers)
    kinds = getattr(config, "layer_types", None)
    if not window or getattr(config, "use_sliding_window", True) is False:
        return None
    layers = sum(kind == SLIDING for kind in kinds) if kinds else of
    return OwnWindow(int(window), layers, of) if layers else None
