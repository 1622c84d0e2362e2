"""Dual Chunk Attention (ChunkLlama): positions within chunks, distances kept where they are short.

With `s = chunk - window`, a key at j has position `j % s` for good. A query at t has position
`t % s` for keys of its own segment of s tokens, `min(t % s + s, chunk)` for the segment before, and
`min(2 s - 1, chunk)` for all older ones. Beyond the model's own window C, cos and sin of token t
are multiplied by `0.05 ln((t + 1) / C) + 1`. Paper: An et al. 2024,
https://arxiv.org/abs/2402.17463. Reference code: HKUNLP/ChunkLlama chunkllama_attn_replace.py.

What differs: the official prefill casts merge weights to bfloat16 and gives every token the factor
of the whole length; its token-by-token decode gives each the factor of its own, as here.
`prefill=official` does as it does; only the whole length is the prompt's own, there the longest
that the process has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Literal

import torch

from ctxbench.methods.attention import AttentionCall, AttentionMethod
from ctxbench.methods.base import check_positive
from ctxbench.methods.kernels.attend import rows_apart
from ctxbench.methods.kernels.decode import decode
from ctxbench.methods.kernels.plan import AttentionPlan, Branch, constant
from ctxbench.methods.kernels.rope import Rope
from ctxbench.methods.kernels.tiled import Tile, merge
from ctxbench.methods.look import TOKENS
from ctxbench.methods.record import original_length

if TYPE_CHECKING:
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
        prefill: `exact`, or `official`: a prompt is read at once, never shared nor in chunks, its
            branches merged by weights in bfloat16, its tokens all with the factor of its length;
            decoding leaves them that. Training is `exact`.
    """

    chunk: int | None = None
    window: int | None = None
    log_scaling: bool = True
    prefill: Literal["exact", "official"] = "exact"

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

    def neutral(self, config: PreTrainedConfig) -> Self:
        """Return the method with a chunk wider than the text."""
        return replace(self, chunk=2 * TOKENS, window=TOKENS, prefill="exact")

    def for_training(self, config: PreTrainedConfig) -> Self:
        """Return the exact method."""
        return replace(super().for_training(config), prefill="exact")

    def reuse_key(self, config: PreTrainedConfig, length: int) -> object | None:
        """Return no key where what is cached depends on the prompt's length."""
        return None if self.prefill == "official" else super().reuse_key(config, length)

    def attend(
        self, call: AttentionCall, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Return attention; with `prefill=official` that of the official code."""
        if self.prefill == "exact":
            return super().attend(call, query, key, value)
        layers = call.cache.layers if call.cache else []
        layer = layers[call.layer] if call.layer < len(layers) else None
        if query.shape[2] == key.shape[2]:
            if layer is not None:
                layer.end_of_prompt = call.positions.amax(1, keepdim=True)
            return self._read(call, query, key, value)
        if query.shape[2] > 1 or layer is None:
            raise ValueError(
                f"method=dca, prefill=official: {query.shape[2]} tokens were to be read after "
                f"{key.shape[2] - query.shape[2]} others; the official code reads a prompt at once "
                "and then one token at a time. Leave out prefill_chunk, take a smaller batch_size, "
                "or give prefill=exact."
            )
        plan = factor_held(call.plan, layer.end_of_prompt)
        return decode(plan, call.rope, query, key, value, call.positions, call.scale)

    def _read(
        self, call: AttentionCall, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        def one(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            plan = factor_held(call.plan, key.shape[2] - 1)
            return official_prefill(plan, call.rope, query, key, value, call.scale)

        if len(call.positions) == 1:
            return one(query, key, value)
        return rows_apart(one, query, key, value, call.positions)

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


def factor_held(plan: AttentionPlan, end: int | torch.Tensor) -> AttentionPlan:
    """Return a plan in which all tokens up to `end` have the factor of that one.

    Args:
        plan: of the method.
        end: position, or positions `[batch or 1, 1]`.
    """
    scale = plan.key_scale
    if scale is None:
        return plan

    def held(t: torch.Tensor) -> torch.Tensor:
        return scale(torch.maximum(t, torch.as_tensor(end, device=t.device)))

    return replace(plan, query_scale=held, key_scale=held)


def official_prefill(
    plan: AttentionPlan,
    rope: Rope,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    block: int = 128,
) -> torch.Tensor:
    """Return attention `[batch, heads, tokens, head_dim]`, branches merged as officially.

    chunkllama_attn_replace.py, merge_attn_outputs: the weights of the branches are rounded to
    bfloat16, whatever the model's dtype, so they do not always add up to 1.

    Args:
        plan: own segment, the one before, older ones.
        rope: the model's rotary embedding.
        query: `[batch, heads, tokens, head_dim]`, not rotated, of a whole text.
        key: `[batch, kv_heads, tokens, head_dim]`, not rotated.
        value: `[batch, kv_heads, tokens, head_dim]`.
        scale: on the scores.
        block: query rows at a time.
    """
    batch, heads, tokens, head_dim = query.shape
    query = plan.scale_queries(query, torch.arange(tokens, device=query.device)[None])
    tiles = [Tile(plan, branch, rope, query, key, 0) for branch in plan.branches]
    outputs = []
    for begin in range(0, tokens, block):
        end = min(begin + block, tokens)
        pieces = [list(tile.pieces(value, begin, end, scale)) for tile in tiles]
        parts, sums = zip(*(reduce(merge, found) for found in pieces if found), strict=True)
        weights = torch.stack(sums).float().softmax(0).to(torch.bfloat16)
        merged = torch.stack(parts).to(query.dtype)
        merged *= weights[..., None]
        outputs.append(merged.sum(0).reshape(batch, heads, end - begin, head_dim))
    return torch.cat(outputs, dim=2)
