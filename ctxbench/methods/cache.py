"""Cache layers of the attention methods.

Keys are cached as projected, not rotated. `RotatedLayer` also keeps them rotated, because most of
them stand in the same place from one decoding step to the next.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ctxbench.methods.kernels.decode import one_query, relative_positions
from ctxbench.methods.kernels.plan import AttentionPlan
from ctxbench.methods.kernels.rope import Rope

NOWHERE = torch.iinfo(torch.int64).min
"""Target of a key that was not rotated yet."""


class RotatedLayer(DynamicLayer):
    """A growing layer that keeps keys rotated between decoding steps.

    All branches of a plan are one attention when every key stands relative to one query position,
    that of the plan's steady branch. Keys of that branch never move; the others are rotated anew.
    Keys and values are appended in place, so a step copies nothing that was cached before.

    Attributes:
        keys: `[batch, kv_heads, tokens, head_dim]`, not rotated.
        values: of the same shape.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._room: dict[str, torch.Tensor] = {}
        self._rotated: torch.Tensor | None = None
        self._targets: torch.Tensor | None = None
        """Rotary position at which each key of `_rotated` stands, `[batch or 1, tokens]`."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values; return all of them."""
        if key_states.requires_grad:  # autograd must keep what it was given
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        self.keys = self._appended("keys", self.keys, key_states)
        self.values = self._appended("values", self.values, value_states)
        return self.keys, self.values

    def holds(self, keys: torch.Tensor) -> bool:
        """Return whether these keys are what is cached: some models cache what makes them."""
        return self.keys is not None and self.keys.shape == keys.shape

    def attend_one(
        self,
        plan: AttentionPlan,
        rope: Rope,
        query: torch.Tensor,
        positions: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Return attention `[batch, heads, 1, head_dim]` of the newest token of each row.

        Args:
            plan: what to compute.
            rope: the model's rotary embedding.
            query: `[batch, heads, 1, head_dim]`, not rotated.
            positions: `[batch or 1, tokens]` of the keys, -1 for padding.
            scale: on the scores.
        """
        assert self.keys is not None
        assert self.values is not None
        at = positions[:, -1:].clamp(min=0)
        distance, seen = relative_positions(plan, at, positions)
        stands = plan.branches[plan.steady].query_position(at)
        self._rotate(plan, rope, distance + stands, seen, positions)
        assert self._rotated is not None
        keys, values = self._rotated[:, :, : positions.shape[1]], self.values
        query = rope(plan.scale_queries(query, at), stands)
        if len(positions) > 1:
            return one_query(query, keys, values, scale, seen, plan)
        if not bool(seen.all()):
            kept = seen[0].nonzero()[:, 0]
            keys, values = keys.index_select(2, kept), values.index_select(2, kept)
        return one_query(query, keys, values, scale, plan=plan)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Reorder the rows for beam search."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        if self._rotated is not None and self._targets is not None:
            self._rotated = self._rotated.index_select(0, beam_idx.to(self._rotated.device))
            if len(self._targets) > 1:
                self._targets = self._targets.index_select(0, beam_idx.to(self._targets.device))

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._forget_rotated()

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest `-tokens_to_remove` tokens."""
        super().crop(tokens_to_remove)
        if self._targets is not None and self.keys is not None:
            self._targets = self._targets[:, : self.keys.shape[2]]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        super().batch_repeat_interleave(repeats)
        self._forget_rotated()

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)
        self._forget_rotated()

    def _forget_rotated(self) -> None:
        self._rotated, self._targets = None, None

    def _appended(self, name: str, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Return `held` and `new` as one view of a buffer with room to grow."""
        length = held.shape[2] if held.numel() else 0
        total = length + new.shape[2]
        room = self._room.get(name)
        # someone else may have replaced what is held: beam search, cropping
        ours = room is not None and (not length or room.data_ptr() == held.data_ptr())
        if room is None or not ours or room.shape[2] < total or room.shape[0] != new.shape[0]:
            room = _with_room(new, total)
            if length:
                room[:, :, :length] = held
            self._room[name] = room
        room[:, :, length:total] = new
        return room[:, :, :total]

    def _rotate(
        self,
        plan: AttentionPlan,
        rope: Rope,
        targets: torch.Tensor,
        seen: torch.Tensor,
        positions: torch.Tensor,
    ) -> None:
        """Rotate the keys that are seen and do not stand at their target yet."""
        assert self.keys is not None
        tokens = targets.shape[1]
        if self._rotated is None or self._rotated.shape[2] < tokens:
            # zeros: what is masked must be finite
            grown = torch.zeros_like(_with_room(self.keys, tokens))
            if self._rotated is not None:
                grown[:, :, : self._rotated.shape[2]] = self._rotated
            self._rotated = grown
        known = torch.full_like(targets, NOWHERE)
        if self._targets is not None and len(self._targets) == len(targets):
            known[:, : self._targets.shape[1]] = self._targets
        stale = ((known != targets) & seen).any(0)
        where = stale.nonzero()[:, 0]
        keys = self.keys.index_select(2, where)
        keys = plan.scale_keys(keys, positions[:, where].clamp(min=0))
        self._rotated[:, :, where] = rope(keys, targets[:, where])
        self._targets = torch.where(stale, targets, known)


def use_rotated_layers(cache: Any) -> None:
    """Let an empty cache of transformers use our layers."""
    if cache.get_seq_length() or getattr(cache, "offloading", False):
        return
    growing = (DynamicLayer, DynamicSlidingWindowLayer)  # exactly: others keep other states too
    cache.layers = [RotatedLayer() if type(layer) in growing else layer for layer in cache.layers]
    if cache.layer_class_to_replicate in growing:
        cache.layer_class_to_replicate = RotatedLayer


def _with_room(like: torch.Tensor, tokens: int) -> torch.Tensor:
    batch, heads, _, head_dim = like.shape
    return like.new_empty(batch, heads, tokens + tokens // 8 + 64, head_dim)
