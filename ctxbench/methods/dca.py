"""Dual Chunk Attention (ChunkLlama): positions within chunks, distances kept where they are short.

With `s = chunk - window`, a key at j has position `j % s` for good. A query at t has position
`t % s` for keys of its own segment of s tokens, `min(t % s + s, chunk)` for the segment before, and
`min(2 s - 1, chunk)` for all older ones. Beyond the model's own window C, cos and sin of token t
are multiplied by `0.05 ln((t + 1) / C) + 1`. Paper: An et al. 2024,
https://arxiv.org/abs/2402.17463. Reference code: HKUNLP/ChunkLlama chunkllama_attn_replace.py.

What differs: the official prefill casts merge weights to bfloat16 and gives every token the factor
of the whole length; its token-by-token decode gives each the factor of its own, as here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ctxbench.methods.attention import AttentionMethod
from ctxbench.methods.base import check_positive
from ctxbench.methods.kernels.plan import AttentionPlan, Branch, constant
from ctxbench.methods.record import original_length

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class DualChunk(AttentionMethod, name="dca"):
    """Positions within chunks, distances kept where they are short.

    Attributes:
        chunk: positions in use, tokens; default three quarters of the model's own window.
        window: distances that are kept across the border of two segments; default an eighth of
            the model's own window.
        log_scaling: grow cos and sin beyond the model's own window.
    """

    chunk: int | None = None
    window: int | None = None
    log_scaling: bool = True

    exact = True

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Set chunk and window."""
        check_positive(self, chunk=2, window=1)
        method = super().resolve(config)
        own = original_length(config)
        chunk, width = self.chunk or max(own * 3 // 4, 2), self.window or max(own // 8, 1)
        if not width < chunk:
            raise ValueError(
                f"method=dca: chunk={chunk}, window={width}; allowed is window < chunk. Give a "
                "shorter window, or leave both out (three quarters and an eighth of the model's "
                "own window)."
            )
        return replace(method, chunk=chunk, window=width)

    def plan(self, config: PreTrainedConfig) -> AttentionPlan:
        """Return own segment, the one before, and all older ones."""
        chunk = self.chunk
        assert chunk is not None
        assert self.window is not None
        segment = chunk - self.window
        begin = lambda t: t // segment * segment  # noqa: E731
        within = lambda p: p % segment  # noqa: E731
        own = Branch(query_position=within, key_position=within, first=begin)
        before = Branch(
            query_position=lambda t: (t % segment + segment).clamp(max=chunk),
            key_position=within,
            first=lambda t: begin(t) - segment,
            end=begin,
        )
        older = Branch(
            query_position=constant(min(2 * segment - 1, chunk)),
            key_position=within,
            end=lambda t: begin(t) - segment,
        )
        factor = log_factor(original_length(config)) if self.log_scaling else None
        branches = (own, before, older)
        return AttentionPlan(branches=branches, steady=2, query_scale=factor, key_scale=factor)


def log_factor(own: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the factor on cos and sin as a function of position; `own` in tokens."""
    return lambda t: 1 + 0.05 * ((t + 1).float() / own).clamp(min=1).log()
