"""A cache whose memory does not grow: the first tokens and the last ones.

The position of a token is its place among the tokens of its row that are kept. For LM-Infinite and
StreamingLLM that is as good as its place in the text: what is kept of the end is contiguous, and
the distance of the first tokens is bounded. Source of the protocol: Xiao et al. 2023,
https://arxiv.org/abs/2309.17453, mit-han-lab/streaming-llm streaming_llm/kv_cache.py.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


class BoundedCache(Cache):
    """Keeps the first `sinks` and the last `window` tokens of each row after every forward pass.

    Padding is dropped first. It cannot be cut back.

    Args:
        sinks: first tokens of each row.
        window: last tokens.
    """

    def __init__(self, sinks: int, window: int) -> None:
        self.eviction = Eviction(sinks, window)
        super().__init__(layer_class_to_replicate=partial(BoundedLayer, self.eviction))  # type: ignore[arg-type]

    def begin(self, new_mask: torch.Tensor) -> torch.Tensor:
        """Return the positions of cached and new tokens, and decide what will be kept of them.

        Args:
            new_mask: `[batch, new]` bool, which of the new tokens are not padding.

        Returns:
            `[batch, tokens]` int64, -1 for padding.
        """
        eviction = self.eviction
        mask = new_mask if eviction.mask is None else torch.cat((eviction.mask, new_mask), dim=1)
        eviction.seen += new_mask.shape[1]
        eviction.choose(mask)
        return place_in_row(mask)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Reorder the rows for beam search."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        if self.eviction.mask is not None:
            mask = self.eviction.mask
            self.eviction.mask = mask.index_select(0, beam_idx.to(mask.device))


class Eviction:
    """Which tokens all layers of a bounded cache keep and drop.

    Attributes:
        mask: `[batch, tokens]` bool, which kept slots are no padding.
        slots: `[batch, tokens]` int64, which slots to keep next; None for all.
        seen: tokens read so far, dropped ones included.
    """

    def __init__(self, sinks: int, window: int) -> None:
        self.sinks, self.window = sinks, window
        self.mask: torch.Tensor | None = None
        self.slots: torch.Tensor | None = None
        self.seen = 0

    def choose(self, mask: torch.Tensor) -> None:
        """Choose the slots of each row: the first tokens, then the last ones, then padding."""
        self.mask, self.slots = mask, None
        room = self.sinks + self.window
        if mask.shape[1] <= room:
            return
        positions = place_in_row(mask)
        slot = torch.arange(mask.shape[1], device=mask.device)
        wanted = slot.masked_fill((positions >= 0) & (positions < self.sinks), mask.shape[1])
        wanted = wanted.masked_fill(positions < 0, -1)
        self.slots = wanted.topk(room, dim=1).indices.sort(dim=1).values
        self.mask = mask.gather(1, self.slots)


class BoundedLayer(DynamicLayer):
    """One layer of a bounded cache; keys are not rotated."""

    def __init__(self, eviction: Eviction) -> None:
        super().__init__()
        self.eviction = eviction

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values, return all of them, keep what was chosen."""
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        self._drop()
        return keys, values

    def _drop(self) -> None:
        """Drop what was not chosen."""
        slots = self.eviction.slots
        if slots is None or self.keys is None or self.values is None:
            return
        index = slots[:, None, :, None]
        self.keys = self.keys.take_along_dim(index, dim=2)
        self.values = self.values.take_along_dim(index, dim=2)

    def get_seq_length(self) -> int:
        """Return the tokens read so far, dropped ones included."""
        return self.eviction.seen if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return length and offset of a mask over all tokens."""
        return self.get_seq_length() + query_length, 0

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: dropped tokens cannot come back."""
        raise ValueError(
            "A bounded cache cannot be cut back, because what it dropped is gone. Leave out "
            "past_key_values to use a growing cache."
        )


def place_in_row(mask: torch.Tensor) -> torch.Tensor:
    """Return which token of its row each slot `[batch, slots]` holds, -1 for padding."""
    return (mask.long().cumsum(-1) - 1).masked_fill(~mask, -1)
