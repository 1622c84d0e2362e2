"""Grouped softmax over blocks, and retrieval of blocks from memory.

A block is `block` tokens, the last of them its landmark. One softmax of a query runs over the
tokens of its own block so far, landmarks left out, and over the landmarks of earlier blocks; the
weight of such a landmark is then shared among the tokens of its block by a second softmax.

Legend: B batch, H query heads, K key heads, T queries, S keys, N blocks, M retrieved blocks,
C tokens of a block, D head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ctxbench.methods.kernels.rope import Rope

GRID = {torch.float64: 2.0**-30, torch.float32: 2.0**-12}
"""Retrieval scores are rounded to multiples of this, well above the rounding noise of their dtype;
among equal ones the oldest block wins."""
COARSE_GRID = 2.0**-6
"""For bfloat16 and float16."""


@dataclass(frozen=True)
class Memory:
    """How blocks are retrieved.

    Attributes:
        top_k: blocks for each query; 0 for none, so that a chunk sees itself only.
        shared: one choice for all queries of a chunk, by the largest weight any of them gives.
    """

    top_k: int
    shared: bool = False


def landmark_attention(
    rope: Rope,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    block: int,
    scale: float,
    memory: Memory | None = None,
    first: int = 0,
    rows: int = 64,
) -> torch.Tensor:
    """Return attention `[B, H, T, D]` of one chunk.

    Args:
        rope: the model's rotary embedding.
        query: `[B, H, T, D]`, not rotated; the last T of the S tokens, no padding.
        key: `[B, K, S, D]`, not rotated.
        value: `[B, K, S, D]`.
        block: C, tokens, landmark included.
        scale: on the scores.
        memory: complete blocks before the chunk are retrieved; None: all of them are seen.
        first: where the chunk begins, if part of it was fed before; at most S - T.
        rows: queries at a time.
    """
    start = key.shape[2] - query.shape[2]
    remembered = first - first % block if memory else 0
    at = torch.arange(start, key.shape[2], device=query.device)
    local = _Local(rope, key, value, block, remembered)
    distant = None
    if memory and memory.top_k and remembered:
        distant = _Distant(rope, query, at, key, value, block, remembered, memory, scale)
    query = rope.query(query, at[None])
    outputs = []
    for begin in range(0, query.shape[2], rows):
        some = slice(begin, begin + rows)
        q_BHTD = query[:, :, some]
        landmarks = []
        if distant:
            scores_BHTMC, values_BHTMCD = distant.scores(some)
            landmarks = [scores_BHTMC[..., -1]]
        weights, output = local.weights(q_BHTD, at[some], landmarks, scale)
        if distant:
            inside = _softmax(scores_BHTMC[..., :-1]) * weights[..., None]
            inside = torch.nn.functional.pad(inside, (0, 1)).to(value.dtype)
            output = output + _weighted(inside, values_BHTMCD)
        outputs.append(output)
    return torch.cat(outputs, dim=2)


class _Local:
    """The keys that are seen in place: the chunk and an incomplete block before it."""

    def __init__(
        self, rope: Rope, key: torch.Tensor, value: torch.Tensor, block: int, first: int
    ) -> None:
        self.block, self.first = block, first
        at = torch.arange(first, key.shape[2], device=key.device)[None]
        self.key = rope.key(key[:, :, first:], at)
        self.value = value[:, :, first:]

    def weights(
        self,
        q_BHTD: torch.Tensor,
        at: torch.Tensor,
        landmarks: list[torch.Tensor],
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights of other landmarks `[B, H, T, M]`, and attention over the local keys.

        Args:
            q_BHTD: rotated queries.
            at: their positions `[T]`.
            landmarks: scores of landmarks elsewhere `[B, H, T, M]`, or none.
            scale: on the scores.
        """
        per_key = q_BHTD.shape[1] // self.key.shape[1]
        end = int(at[-1]) + 1 - self.first
        key = _repeated(self.key[:, :, :end], per_key)
        value = _repeated(self.value[:, :, :end], per_key)
        scores = q_BHTD @ key.transpose(-1, -2) * scale
        lowest = torch.finfo(scores.dtype).min
        blocks = -(-end // self.block)
        scores = torch.nn.functional.pad(scores, (0, blocks * self.block - end), value=lowest)
        scores_BHTNC = scores.unflatten(-1, (blocks, self.block))
        own = (at // self.block - self.first // self.block)[:, None]  # [T, 1]
        number = torch.arange(blocks, device=at.device)
        earlier = scores_BHTNC[..., -1].masked_fill(number >= own, lowest)
        mine = scores_BHTNC.take_along_dim(own[None, None, :, :, None], dim=-2).squeeze(-2)
        inside = torch.arange(self.block, device=at.device)
        unseen = (inside > (at % self.block)[:, None]) | (inside == self.block - 1)
        mine = mine.masked_fill(unseen, lowest)
        together = _softmax(torch.cat((*landmarks, earlier, mine), dim=-1))
        sizes = [together.shape[-1] - blocks - self.block, blocks, self.block]
        elsewhere, gates, mine = together.split(sizes, dim=-1)
        shared = gates[..., None] * _softmax(scores_BHTNC[..., :-1])
        shared = torch.nn.functional.pad(shared, (0, 1))  # a landmark's own value has no weight
        weights = torch.where((number == own)[..., None], mine[..., None, :], shared)
        return elsewhere, weights.flatten(-2)[..., :end].to(value.dtype) @ value


class _Distant:
    """Complete blocks before the chunk, of which each query retrieves a few.

    The retrieved blocks stand before the chunk at compressed positions: the last `top_k` blocks in
    their true places, slots 1 to M; an older one in the slot of its rank among the retrieved, and
    while it is only a candidate in slot 0. Keys are rotated once, by their place in their block;
    the slot is taken off the query's position instead.
    """

    def __init__(
        self,
        rope: Rope,
        query: torch.Tensor,
        at: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        block: int,
        remembered: int,
        memory: Memory,
        scale: float,
    ) -> None:
        self.scale = scale
        self.blocks = remembered // block
        self.kept = min(memory.top_k, self.blocks)
        inside = torch.arange(remembered, device=key.device) % block
        shape = (self.blocks, block)
        self.key = rope.key(key[:, :, :remembered], inside[None]).unflatten(2, shape)
        self.value = value[:, :, :remembered].unflatten(2, shape)
        self.per_key = query.shape[1] // key.shape[1]
        first = remembered - (self.kept + 1) * block  # where slot 0 begins
        slots = torch.arange(self.kept + 1, device=at.device)[:, None]  # a query for each slot
        queries = query[:, :, None].expand(-1, -1, len(slots), -1, -1).flatten(2, 3)
        queries = rope.query(queries, (at - first - slots * block).flatten()[None])
        self.query_BHTMD = queries.unflatten(2, (len(slots), len(at))).transpose(2, 3)
        self.chosen_BHTM = self._choose(memory.shared)  # T or 1, in the order of the text

    def _choose(self, shared: bool) -> torch.Tensor:
        landmark = _repeated(self.key[..., -1, :], self.per_key).transpose(-1, -2)
        older = self.blocks - self.kept
        scores = [self.query_BHTMD[..., 0, :] @ landmark[..., :older]]
        for slot in range(1, self.kept + 1):
            column = slice(older + slot - 1, older + slot)
            scores.append(self.query_BHTMD[..., slot, :] @ landmark[..., column])
        together = torch.cat(scores, dim=-1) * self.scale
        if shared:
            together = _softmax(together).amax(dim=2, keepdim=True)
        rounded = (together.double() / GRID.get(together.dtype, COARSE_GRID)).round()
        number = torch.arange(self.blocks, device=rounded.device)
        ranked = rounded * self.blocks - number  # whole numbers, exact: the oldest wins a tie
        return ranked.topk(self.kept, dim=-1).indices.sort(dim=-1).values

    def scores(self, some: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores `[B, H, T, M, C]` and values `[B, H, T or 1, M, C, D]` of the chosen."""
        chosen = self.chosen_BHTM
        chosen = chosen if chosen.shape[2] == 1 else chosen[:, :, some]
        key, value = self._gathered(self.key, chosen), self._gathered(self.value, chosen)
        slot = torch.arange(chosen.shape[-1], device=chosen.device)
        slot = slot + (chosen >= self.blocks - chosen.shape[-1])
        query = self.query_BHTMD[:, :, some].take_along_dim(slot[..., None], dim=3)
        if chosen.shape[2] == 1:  # queries of one choice are the rows of one product
            scores = query.transpose(2, 3) @ key.squeeze(2).transpose(-1, -2)
            return scores.transpose(2, 3) * self.scale, value
        # a row times a matrix: several times faster on CPUs than the matrix times a column
        scores = query[..., None, :] @ key.transpose(-1, -2)
        return scores.squeeze(-2) * self.scale, value

    def _gathered(self, blocks: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Return `[B, H, T, M, C, D]` of blocks `[B, K, N, C, D]`, copied block by block."""
        batch, groups, number = blocks.shape[:3]
        heads = torch.arange(chosen.shape[1], device=chosen.device) // self.per_key
        rows = torch.arange(batch, device=chosen.device)[:, None] * groups + heads
        at = rows[:, :, None, None] * number + chosen
        found = blocks.flatten(0, 2).flatten(1).index_select(0, at.flatten())
        return found.view(*chosen.shape, *blocks.shape[3:])


def _weighted(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return the sum `[B, H, T, D]` of values `[B, H, T or 1, M, C, D]` by `[B, H, T, M, C]`."""
    weights, values = weights.flatten(-2), values.flatten(3, 4)
    if values.shape[2] == 1:
        return weights @ values.squeeze(2)
    return (weights[..., None, :] @ values).squeeze(-2)


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(-1)


def _repeated(heads: torch.Tensor, times: int) -> torch.Tensor:
    """Repeat each head for the query heads that share it; a copy only where there are several."""
    return heads if times == 1 else heads.repeat_interleave(times, dim=1)
