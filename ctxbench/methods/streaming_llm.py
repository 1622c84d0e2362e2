"""StreamingLLM: a window, and the first tokens at their place in the cache.

A bounded cache holds the first `sinks` and the last `window` tokens, and a new token sees both and
itself. Positions are places in that cache: token t sees j if `j >= sinks` and `t - j <= window`, at
its true distance, or if `j < sinks`, at distance `min(t, sinks + window) - j`. Paper: Xiao et al.
2023, https://arxiv.org/abs/2309.17453. Reference code: mit-han-lab/streaming-llm
streaming_llm/kv_cache.py (start_size = sinks, recent_size = window) and
streaming_llm/pos_shift/modify_llama.py.

What differs: the official protocol feeds one token at a time; here a whole prompt is computed at
once with equal results. The official demo reads long prompts by full attention; here never.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ctxbench.methods.attention import AttentionMethod, check_window, native_length
from ctxbench.methods.base import check_positive
from ctxbench.methods.bounded import BoundedCache
from ctxbench.methods.kernels.plan import AttentionPlan, Branch
from ctxbench.methods.look import TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class StreamingLLM(AttentionMethod, name="streaming_llm"):
    """A window, and the first tokens at their place in the cache.

    Attributes:
        window: earlier tokens seen at their true distance; default the model's own window minus
            `sinks`.
        sinks: first tokens that are always seen. The paper: 4.
    """

    window: int | None = None
    sinks: int = 4

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Set the window."""
        check_positive(self, window=1, sinks=0)
        method = super().resolve(config)
        default = native_length(method, config) - self.sinks
        return replace(method, window=check_window(method, self.window or default))

    def neutral(self, config: PreTrainedConfig) -> Self:
        """Return the method with a window wider than the text."""
        return replace(self, window=TOKENS, length=max(self.length or 0, TOKENS))

    def bounded_cache(self) -> BoundedCache:
        """Return an empty cache of `sinks + window` tokens, for `past_key_values`."""
        assert self.window is not None
        return BoundedCache(self.sinks, self.window)

    def plan(self, config: PreTrainedConfig) -> AttentionPlan:
        """Return window and sinks."""
        width, sinks = self.window, self.sinks
        assert width is not None
        near = Branch(first=lambda t: (t - width).clamp(min=sinks))
        far = Branch(
            query_position=lambda t: t.clamp(max=sinks + width),
            end=lambda t: (t + 1).clamp(max=sinks),
        )
        return AttentionPlan(branches=(near, far))
