"""LongLoRA: shifted groups while training, full attention with Position Interpolation otherwise.

In training the first half of the query heads attend within groups of `g = ratio * length` tokens,
the second half within groups shifted by g / 2, the first and the last of them half as long; true
RoPE positions throughout. Low-rank adapters on the attention train, and embeddings and norms whole;
`rank=0` trains everything. Paper: Chen et al. 2023, https://arxiv.org/abs/2309.12307. Reference
code: dvlab-research/LongLoRA llama_attn_replace.py `forward_flashattn`; fine-tune.py for the
adapters: rank 8, alpha 16, and parameters whose names have "embed" or "norm".

What differs: the official code without flash attention rolls the sequence, so that the first g / 2
tokens see its end; here, as in its flash path, nothing sees the future. Padding masks work for any
batch. g follows the length of the batch, as in the official code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ctxbench.core.compat.transformers import attention_of, use_attention
from ctxbench.methods.adapters import add_adapters, attention_layers
from ctxbench.methods.anatomy import text_part
from ctxbench.methods.base import check_positive
from ctxbench.methods.extension import ForwardInputs, extension_of
from ctxbench.methods.pi import PositionInterpolation

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel
    from typing_extensions import Self

IMPLEMENTATION = "ctxbench_longlora"
"""Our name among transformers' attention implementations."""


@dataclass(frozen=True, kw_only=True)
class LongLoRA(PositionInterpolation, name="longlora"):
    """Shifted groups while training, full attention with Position Interpolation otherwise.

    Attributes:
        ratio: group length / sequence length in training.
        rank: of the adapters on the linear layers of attention; 0 to train all weights.
        alpha: the adapters' scale is alpha / rank.
        also: parameters whose name has one of these parts train whole.
        factor: of Position Interpolation; default `length / original length`; 1 for none.
    """

    ratio: float = 0.25
    rank: int = 8
    alpha: float = 16.0
    also: tuple[str, ...] = ("embed", "norm")

    needs_training: ClassVar[bool] = True
    own_attention: ClassVar[bool] = True
    head_blocks: ClassVar[int] = 2

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Check ratio and rank."""
        check_positive(self, rank=0)
        if not 0 < self.ratio <= 0.5:
            raise ValueError(
                f"method=longlora: ratio={self.ratio}; allowed is 0 < ratio <= 0.5. Give a part of "
                "the sequence (the paper: 0.25)."
            )
        return super().resolve(config)

    def edit_model(self, model: PreTrainedModel) -> None:
        """Install the rotary module, and the groups for training mode."""
        super().edit_model(model)
        AttentionInterface.register(IMPLEMENTATION, _attention)
        AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
        extension = extension_of(model)
        extension.replace_attention(model, IMPLEMENTATION)
        part = text_part(model)
        begin = partial(_begin_forward, self.ratio, extension.attention)
        extension.hooks += [
            part.register_forward_pre_hook(begin, with_kwargs=True),
            part.register_forward_hook(partial(_end_forward, extension.attention)),
        ]

    def training_span(self, length: int) -> int:
        """Return the length of a group."""
        return int(self.ratio * length)

    def trainable(self, model: PreTrainedModel) -> nn.Module:
        """Return the model with adapters, unless the rank is 0."""
        if not self.rank:
            return model
        return add_adapters(model, self.rank, self.alpha, attention_layers(model), self.also)


def grouped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    group: int,
    scale: float,
    mask: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Return shifted-group attention `[batch, heads, length, head_dim]`.

    Args:
        query: `[batch, heads, length, head_dim]`, rotated.
        key: of the same shape, rotated.
        value: of the same shape.
        group: g, tokens.
        scale: on the scores.
        mask: `[batch, 1, length, length]` bool or additive, causality included; None for causal.
        dropout: on the weights.
    """
    length, half = query.shape[2], query.shape[1] // 2
    plain = list(range(0, length + 1, group))
    shifted = [0, *range(group // 2 or group, length, group), length]
    outputs = []
    for heads, borders in ((slice(0, half), plain), (slice(half, None), shifted)):
        segments = []
        for begin, end in pairwise(borders):
            some = slice(begin, end)
            segments.append(
                scaled_dot_product_attention(
                    query[:, heads, some],
                    key[:, heads, some],
                    value[:, heads, some],
                    attn_mask=None if mask is None else mask[:, :, some, some],
                    is_causal=mask is None,
                    dropout_p=dropout,
                    scale=scale,
                )
            )
        outputs.append(torch.cat(segments, dim=2))
    return torch.cat(outputs, dim=1)


def _begin_forward(
    ratio: float,
    own: str | None,
    part: PreTrainedModel,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> ForwardInputs:
    """Forward pre-hook: groups in training; otherwise the model attends as it did before."""
    wanted, other = (IMPLEMENTATION, own) if part.training else (own, IMPLEMENTATION)
    if attention_of(part.config) == other:  # else someone wraps it
        use_attention(part.config, wanted)
    return args, {**kwargs, "ctxbench": ratio} if part.training else kwargs


def _end_forward(own: str | None, part: PreTrainedModel, args: Any, output: Any) -> None:
    """Forward hook: between forward passes it is found by its name."""
    if attention_of(part.config) == own:
        use_attention(part.config, IMPLEMENTATION)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    ctxbench: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention function: groups in training, stock SDPA otherwise. See `AttentionInterface`."""
    length = query.shape[2]
    told = [name for name in ("softcap", "s_aux") if kwargs.get(name) is not None]
    if told and module.training:
        raise ValueError(
            f"method=longlora trains attention without {', '.join(told)}, which this model has. "
            "Use another method."
        )
    if not module.training or ctxbench is None or length != key.shape[2]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    group = int(length * ctxbench)
    if group < 1 or length % group:
        raise ValueError(
            f"method=longlora trains on sequences that a group of {ctxbench:g} of their length "
            f"divides; this batch has length {length}. Pad or cut it to a multiple of "
            f"{round(1 / ctxbench)}."
        )
    per_key = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(per_key, 1), value.repeat_interleave(per_key, 1)
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    dropout = kwargs.get("dropout", 0.0)
    output = grouped_attention(query, key, value, group, scale, attention_mask, dropout)
    return output.transpose(1, 2).contiguous(), None
