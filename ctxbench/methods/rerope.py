"""ReRoPE: true distances within a window, the window's width for everything beyond.

Token t sees every earlier j, at distance `min(t - j, window)`; queries are multiplied by
`max(1, ln(t + 1) / ln C)`, C the model's own window. Source: Su 2023,
https://kexue.fm/archives/9708. Reference code: bojone/rerope; Leooyii/LCEG@2ce672d
models/llama_yarn/LlamaReRoPE.py.

What differs: nothing that is known. Full attention throughout, so time is quadratic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ctxbench.methods.attention import AttentionMethod, check_window, native_length
from ctxbench.methods.base import check_positive
from ctxbench.methods.kernels.plan import AttentionPlan, Branch, constant, window
from ctxbench.methods.look import TOKENS
from ctxbench.methods.record import original_length

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class ReRoPE(AttentionMethod, name="rerope"):
    """True distances within a window, the window's width for everything beyond.

    Attributes:
        window: tokens seen at their true distance; default a quarter of the model's own window
            (the author's results: 1024 for Llama-2).
        log_scaling: grow the queries with the logarithm of their position beyond the model's own
            window.
    """

    window: int | None = None
    log_scaling: bool = True

    exact = True

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Set the window."""
        check_positive(self, window=1)
        method = super().resolve(config)
        default = max(native_length(method, config) // 4, 1)
        return replace(method, window=check_window(method, self.window or default))

    def neutral(self, config: PreTrainedConfig) -> Self:
        """Return the method with a window wider than the text."""
        return replace(self, window=TOKENS, length=max(self.length or 0, TOKENS))

    def plan(self, config: PreTrainedConfig) -> AttentionPlan:
        """Return the window and everything beyond it."""
        width = self.window
        assert width is not None
        near = Branch(first=window(width))
        far = Branch(
            query_position=constant(width),
            key_position=constant(0),
            end=lambda t: t - width + 1,
        )
        log_own = math.log(original_length(config))
        grow = lambda t: ((t + 1).float().log() / log_own).clamp(min=1)  # noqa: E731
        scale = grow if self.log_scaling else None
        return AttentionPlan(branches=(near, far), steady=1, query_scale=scale)
