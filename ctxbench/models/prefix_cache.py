"""Keys and values of one sequence after another, of which common beginnings are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ctxbench.models.memory import MemoryBudget
from ctxbench.models.schedule import common_prefix

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PrefixCache:
    """One growing key-value cache over requests in trie order.

    Attributes:
        ids: the user's tokens that are cached.
        past: their keys and values.
    """

    def __init__(self, model: PreTrainedModel, budget: MemoryBudget):
        self.model = model
        self.budget = budget
        self.ids: list[int] = []
        self.past: Any = None

    def shared_with(self, ids: Sequence[int], cuts: Sequence[int], limit: int) -> int:
        """Return the last of the cuts up to which `ids` are cached, at most `limit`."""
        shared = min(common_prefix(self.ids, list(ids)), limit)
        return max((cut for cut in cuts if cut <= shared), default=0)

    def feed(self, ids: Sequence[int], keep: int, cuts: Sequence[int] = ()) -> torch.Tensor:
        """Crop the cache to `keep` tokens, feed the rest of `ids` in pieces.

        Args:
            ids: all tokens.
            keep: how many of them stay cached.
            cuts: where pieces end, ascending; of what is long besides, memory decides.

        Returns:
            Last hidden states `[len(ids) - keep, hidden_size]` of the user's tokens.
        """
        from transformers import DynamicCache

        model: Any = self.model
        if self.past is None or not crop(self.past, keep):
            self.past, cached = DynamicCache(config=model.config), 0
        else:
            cached = keep
        self.ids = list(ids)
        step = self.budget.chunk(1, len(ids))
        parts = []
        start = cached
        for cut in [*(cut for cut in cuts if cut > start), len(ids)]:
            while start < cut:
                # a last token alone would be decoding, which Landmark computes otherwise
                end = start + step if cut - start - step > 1 else cut
                piece = torch.tensor([self.ids[start:end]], device=model.device)
                start = end
                out = model.base_model(piece, past_key_values=self.past, use_cache=True)
                parts.append(out.last_hidden_state[0])
        if not parts:  # all of it is cached
            return torch.empty(0, model.config.hidden_size, device=model.device)
        return torch.cat(parts)[keep - cached :]


def crop(cache: Any, length: int) -> bool:
    """Crop a cache to its first `length` tokens.

    Returns:
        Whether it could be done: every layer must hold keys and values by position.
    """
    excess = cache.get_seq_length() - length
    if excess == 0:
        return True
    if excess < 0 or not all(can_crop(layer) for layer in cache.layers):
        return False
    for layer in cache.layers:
        if layer.is_initialized:
            layer.crop(-excess)
    return True


def can_crop(layer: Any) -> bool:
    """Return whether a cache layer can forget its newest tokens."""
    return not getattr(layer, "is_sliding", False) and hasattr(layer, "crop")
