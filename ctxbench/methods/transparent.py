"""Methods that feed more tokens than the user gives: expansion around the base model.

A pre-hook replaces the user's tokens by `method.encode` of them, a hook picks the hidden states
that belong to the user's tokens again. The cache that the user sees counts the user's tokens, so
`generate`, scoring and a bare forward pass work as for any model. In training mode nothing is done:
`edit_batch` has expanded the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from ctxbench.methods.base import Method
from ctxbench.methods.extension import ForwardInputs

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutputWithPast


def expands(method: Method) -> bool:
    """Return whether a method feeds other tokens than the user's."""
    return type(method).encode is not Method.encode


def make_transparent(model: PreTrainedModel, method: Method) -> list[RemovableHandle]:
    """Expand tokens before, and pick hidden states after every pass through the base model.

    Returns:
        Handles; `remove()` undoes it.
    """
    base = model.base_model
    before = partial(_expand, method)
    return [
        base.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
        base.register_forward_hook(_pick, with_kwargs=True),
    ]


@dataclass(frozen=True)
class _Expansion:
    """What `_expand` did, for `_pick`.

    Attributes:
        reads: `[batch, new]`, where each of the user's new tokens is read among the fed ones.
        cache: as the user sees it, or None.
    """

    reads: torch.Tensor
    cache: Cache | None


class ExpandedLayer(CacheLayerMixin):
    """What stands for all layers in the cache that the user sees.

    Attributes:
        inner: the real cache, of expanded tokens.
        mask: `[batch, expanded]` bool, which slots of it hold tokens.
        tokens: `[batch]`, the user's tokens of each row, padding left out.
        columns: the user's tokens and padding, the same for every row.
    """

    is_sliding = False

    def __init__(self, inner: Cache) -> None:
        super().__init__()
        self.inner = inner
        self.mask: torch.Tensor | None = None
        self.tokens: torch.Tensor | None = None
        self.columns = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the inner cache initializes itself."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Refuse: only the inner cache is written."""
        raise AssertionError("the cache of expanded tokens is written by its model only")

    def get_seq_length(self) -> int:
        """Return the user's tokens, padding included."""
        return self.columns

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return length and offset of a mask over the user's tokens."""
        return self.columns + query_length, 0

    def get_max_length(self) -> int:
        """Return -1: it grows."""
        return -1

    def reset(self) -> None:
        """Forget everything."""
        self.inner.reset()
        self.mask, self.tokens, self.columns = None, None, 0

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Reorder the rows for beam search."""
        self.inner.reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._rows(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self.inner.batch_repeat_interleave(repeats)  # type: ignore[attr-defined]
        self._rows(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows."""
        self.inner.batch_select_indices(indices)  # type: ignore[attr-defined]
        self._rows(lambda rows: rows[indices])

    def _rows(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        if self.mask is not None and self.tokens is not None:
            self.mask, self.tokens = change(self.mask), change(self.tokens)


def _expand(
    method: Method, base_model: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ForwardInputs | None:
    """Forward pre-hook: feed `encode` of the user's tokens."""
    if base_model.training:
        return None
    ids = kwargs.get("input_ids", args[0] if args else None)
    if ids is None:
        raise ValueError(
            f"method={method.name} inserts tokens and needs input_ids; inputs_embeds were given. "
            "Give input_ids."
        )
    given = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    outer = kwargs.get("past_key_values")
    use_cache = kwargs.get("use_cache")
    if outer is None and (base_model.config.use_cache if use_cache is None else use_cache):
        outer = DynamicCache(config=base_model.config)
    layer = _layer_of(outer, base_model.config)
    real = torch.ones_like(ids, dtype=torch.bool)
    if given is not None:
        real = given[:, -ids.shape[1] :].to(ids.device).bool()
    tokens = ids.new_zeros(len(ids)) if layer is None or layer.tokens is None else layer.tokens
    rows = [
        method.encode(row[here].tolist(), int(start))
        for row, here, start in zip(ids, real, tokens, strict=True)
    ]
    width = max(len(fed) for fed, _ in rows)
    fed_ids = ids.new_zeros(len(ids), width)
    mask = torch.zeros_like(fed_ids, dtype=torch.bool)
    reads = torch.zeros_like(ids)
    for row, (fed, read) in enumerate(rows):
        left = width - len(fed)
        fed_ids[row, left:] = fed_ids.new_tensor(fed)
        mask[row, left:] = True
        reads[row, real[row]] = reads.new_tensor(read) + left
    if layer is not None:
        mask = mask if layer.mask is None else torch.cat((layer.mask, mask), dim=1)
        layer.mask, layer.tokens = mask, tokens + real.sum(-1)
        layer.columns += ids.shape[1]
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -width:]
    return (), {
        **kwargs,
        "input_ids": fed_ids,
        "attention_mask": mask.long(),
        "position_ids": positions,
        "past_key_values": None if layer is None else layer.inner,
        "use_cache": layer is not None,
        "ctxbench_expansion": _Expansion(reads, outer),
    }


def _layer_of(outer: Any, config: PreTrainedConfig) -> ExpandedLayer | None:
    """Return the layer that stands in a cache given by the user; an empty cache gets one."""
    if outer is None:
        return None
    if outer.layers and isinstance(outer.layers[0], ExpandedLayer):
        return outer.layers[0]
    if outer.get_seq_length():
        raise ValueError(
            "A cache was given that this model did not fill. A method that inserts tokens needs "
            "its own; give an empty cache or none."
        )
    layer = ExpandedLayer(DynamicCache(config=config))
    outer.layers = [layer]
    outer.layer_class_to_replicate = None
    return layer


def _pick(
    base_model: PreTrainedModel,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: BaseModelOutputWithPast,
) -> BaseModelOutputWithPast:
    """Forward hook: keep what belongs to the user's tokens."""
    expansion = kwargs.get("ctxbench_expansion")
    if expansion is None:
        return output

    def pick(hidden: torch.Tensor) -> torch.Tensor:
        return hidden.take_along_dim(expansion.reads[..., None].to(hidden.device), dim=1)

    assert output.last_hidden_state is not None
    output.last_hidden_state = pick(output.last_hidden_state)
    if hidden_states := output.get("hidden_states"):
        output.hidden_states = tuple(map(pick, hidden_states))
    if expansion.cache is not None:
        output.past_key_values = expansion.cache
    return output
