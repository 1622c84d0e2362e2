"""LM-Infinite: a window, and the first tokens at a fixed distance.

Token t sees j if `t - j < window`, at its true distance, or if `j < sinks`, at distance
`min(t - j, window)`. Paper: Han et al. 2023, https://arxiv.org/abs/2308.16137. Reference code:
Glaciohound/LM-Infinite models/llama.py `convert_llama_model` (local_branch = window, global_branch
= sinks); Leooyii/LCEG@2ce672d has the same mathematics.

What differs: the official code ignores the padding mask and takes one sequence at a time. The
distance `window` is one beyond the largest of training when window is the model's own; so it is in
the official code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ctxbench.methods.attention import AttentionMethod, check_window, native_length
from ctxbench.methods.base import check_positive
from ctxbench.methods.bounded import BoundedCache
from ctxbench.methods.kernels.plan import AttentionPlan, Branch, constant, window
from ctxbench.methods.look import TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class LMInfinite(AttentionMethod, name="lm_infinite"):
    """A window, and the first tokens at a fixed distance.

    Attributes:
        window: tokens seen at their true distance, the token itself included; default the model's
            own window (4096 for Llama-2).
        sinks: first tokens that are always seen. The paper: 10 (of 10 to 100).
    """

    window: int | None = None
    sinks: int = 10

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Set the window."""
        check_positive(self, window=1, sinks=0)
        method = super().resolve(config)
        default = native_length(method, config)
        return replace(method, window=check_window(method, self.window or default))

    def neutral(self, config: PreTrainedConfig) -> Self:
        """Return the method with a window wider than the text."""
        return replace(self, window=TOKENS, length=max(self.length or 0, TOKENS))

    def bounded_cache(self) -> BoundedCache:
        """Return an empty cache of `sinks + window - 1` tokens, for `past_key_values`."""
        assert self.window is not None
        return BoundedCache(self.sinks, self.window - 1)

    def plan(self, config: PreTrainedConfig) -> AttentionPlan:
        """Return window and sinks."""
        width, sinks = self.window, self.sinks
        assert width is not None
        near = Branch(first=window(width))
        far = Branch(
            query_position=constant(width),
            key_position=constant(0),
            end=lambda t: (t - width + 1).clamp(0, sinks),
        )
        return AttentionPlan(branches=(near, far))
