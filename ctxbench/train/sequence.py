"""Sequence parallelism: the processes of a group share each row, every one holds a part of it.

Ulysses (Jacobs et al. 2023, https://arxiv.org/abs/2309.14509): everything but attention works on a
part of the tokens; before attention an all-to-all gives each process all tokens of a part of the
heads, after it another takes them back. Attention itself sees whole rows, so any kernel and any
method runs unchanged in between: the mask, the positions and the length it is told are the row's.

The model is called with whole rows of token ids. The hidden states are cut before the first layer,
so that hooks on the base model, the rotary module and the masks never see a part. What that costs
is one embedding of the whole row on every process.

Legend: B batch, H query heads, K key heads, D head_dim, S tokens of a row, T = ceil(S / N) of a
process, N processes, G blocks of heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ctxbench.core.compat.transformers import attention_of, check_for_sequences


class SequenceParallel:
    """The processes that share rows; whole rows where there is one.

    Args:
        size: N, processes that share a row.
        rank: of this process among them.
        group: of torch.distributed; None where N is 1.
    """

    def __init__(self, size: int = 1, rank: int = 0, group: Any = None):
        self.size, self.rank, self.group = size, rank, group
        self.blocks = 1
        self.active = size > 1
        self.length = 0

    def install(self, model: Any, head_blocks: int = 1) -> None:
        """Make a transformers model compute a part of each row.

        Args:
            model: a causal language model with its method installed.
            head_blocks: G; the method treats heads by the block they are in (`Method.head_blocks`),
                so every process gets an equal share of each block.

        Raises:
            ValueError: its heads cannot be divided, or it is built otherwise than the decoders
                that are known.
        """
        if self.size == 1:
            return
        heads = model.config.num_attention_heads
        if heads % (self.size * head_blocks):
            raise ValueError(
                f"sequence_parallel={self.size}, but the model has {heads} heads"
                + (f", which its method treats in {head_blocks} blocks" if head_blocks > 1 else "")
                + ". It must divide the heads"
                + (" of a block" if head_blocks > 1 else "")
                + f". Allowed: {', '.join(map(str, _allowed(heads // head_blocks)))}."
            )
        layers = getattr(model.base_model, "layers", None)
        if not isinstance(layers, nn.ModuleList):
            raise ValueError(
                f"sequence_parallel={self.size} does not know {type(model).__name__}: it has no "
                "list of decoder layers. Use --sequence-parallel 1."
            )
        check_for_sequences()
        inner = attention_of(model.config)
        if inner not in ALL_ATTENTION_FUNCTIONS:
            raise ValueError(
                f"sequence_parallel={self.size} cannot wrap the attention {inner!r}. Allowed: "
                f"{', '.join(ALL_ATTENTION_FUNCTIONS)}. Give --attention sdpa."
            )
        self.blocks = head_blocks
        name = f"ctxbench_sequence_parallel_{inner}"
        AttentionInterface.register(name, _Attention(self, ALL_ATTENTION_FUNCTIONS[inner]))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[inner])
        model.set_attn_implementation(name)
        for number, layer in enumerate(layers):
            layer.register_forward_pre_hook(_Enter(self, number == 0), with_kwargs=True)

    def part(self, whole: torch.Tensor) -> torch.Tensor:
        """Return this process's tokens `[B, T, ...]` of `[B, S, ...]`; zeros fill the last part."""
        if not self.active:
            return whole
        length = -(-whole.shape[1] // self.size)
        padding = self.size * length - whole.shape[1]
        padded = F.pad(whole, (0, 0) * (whole.dim() - 2) + (0, padding))
        # a copy, so that the whole does not stay in memory
        return padded[:, self.rank * length : (self.rank + 1) * length].clone()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it, this process computes whole rows by itself."""
        before, self.active = self.active, False
        try:
            yield
        finally:
            self.active = before

    def to_heads(self, x_BHTD: torch.Tensor) -> torch.Tensor:
        """Return all tokens of a part of the heads, `[B, H / N, N T, D]`."""
        batch, heads, tokens, dim = x_BHTD.shape
        share = heads // (self.size * self.blocks)
        x = x_BHTD.reshape(batch, self.blocks, self.size, share, tokens, dim)
        x = _Exchange.apply(x.permute(2, 0, 1, 3, 4, 5).contiguous(), self.group)
        x = x.permute(1, 2, 3, 0, 4, 5)  # B, G, share, N, T, D
        return x.reshape(batch, heads // self.size, self.size * tokens, dim)

    def to_tokens(self, x_BSHD: torch.Tensor) -> torch.Tensor:
        """Return all heads of a part of the tokens `[B, T, H, D]`, from `[B, N T, H / N, D]`."""
        batch, tokens, heads, dim = x_BSHD.shape
        share = heads // self.blocks
        x = x_BSHD.reshape(batch, self.size, tokens // self.size, self.blocks, share, dim)
        x = _Exchange.apply(x.transpose(0, 1).contiguous(), self.group)
        x = x.permute(1, 2, 3, 0, 4, 5)  # B, T, G, N, share, D
        return x.reshape(batch, tokens // self.size, heads * self.size, dim)

    def repeats(self, heads: int, key_heads: int) -> int:
        """Return how often to repeat each key head so that they divide: 1 where they do."""
        groups = self.size * self.blocks
        per_key = heads // key_heads
        return next(n for n in _allowed(per_key) if not key_heads * n % groups)


class _Enter:
    """Forward pre-hook of a layer: cut the hidden states once, and the rotation for each layer."""

    def __init__(self, sequence: SequenceParallel, first: bool):
        self.sequence, self.first = sequence, first

    def __call__(self, layer, args, kwargs):
        sequence = self.sequence
        if not sequence.active:
            return args, kwargs
        rotation = kwargs["position_embeddings"]
        sequence.length = rotation[0].shape[1]
        kwargs = {**kwargs, "position_embeddings": tuple(map(sequence.part, rotation))}
        if self.first and args:
            args = (sequence.part(args[0]), *args[1:])
        elif self.first:
            kwargs["hidden_states"] = sequence.part(kwargs["hidden_states"])
        return args, kwargs


class _Attention:
    """Attention function of a part: another one, on all tokens of some heads."""

    def __init__(self, sequence: SequenceParallel, inner: Callable):
        self.sequence, self.inner = sequence, inner

    def __call__(self, module, query, key, value, attention_mask, **kwargs):
        sequence = self.sequence
        if not sequence.active:
            return self.inner(module, query, key, value, attention_mask, **kwargs)
        times = sequence.repeats(query.shape[1], key.shape[1])
        if times > 1:
            key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        whole = slice(0, sequence.length)
        query, key, value = (sequence.to_heads(x)[:, :, whole] for x in (query, key, value))
        with _key_groups(module, query.shape[1] // key.shape[1]):
            output, weights = self.inner(module, query, key, value, attention_mask, **kwargs)
        padding = -output.shape[1] % sequence.size
        return sequence.to_tokens(F.pad(output, (0, 0, 0, 0, 0, padding))), weights


class _Exchange(torch.autograd.Function):
    """All-to-all over the first dimension: to process r goes x[r], from it comes result[r]."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, group) -> torch.Tensor:
        """Exchange the parts."""
        ctx.group = group
        result = torch.empty_like(x)
        dist.all_to_all_single(result, x, group=group)
        return result

    @staticmethod
    def backward(ctx, *gradients):
        """Take the gradients back the way the parts came."""
        return _Exchange.apply(gradients[0].contiguous(), ctx.group), None


@contextmanager
def _key_groups(module: nn.Module, groups: int) -> Iterator[None]:
    """Tell a stock kernel how many query heads share a key head here."""
    before = getattr(module, "num_key_value_groups", None)
    if before is None or before == groups:
        yield
        return
    module.num_key_value_groups = groups  # type: ignore[assignment]
    try:
        yield
    finally:
        module.num_key_value_groups = before


def _allowed(heads: int) -> list[int]:
    return [n for n in range(1, heads + 1) if heads % n == 0]
