"""Landmark attention: a token after every block stands for it, and blocks are retrieved by it.

Every `block - 1` tokens a landmark token is inserted. A query gives one softmax to the tokens of
its own block and the landmarks of earlier blocks; a landmark's weight is shared among the tokens of
its block by a second softmax (kernels/landmark.py). At inference the text is read in chunks; each
query retrieves the `top_k` blocks before its chunk whose landmarks score highest. Paper: Mohtashami
and Jaggi 2023, https://arxiv.org/abs/2305.16300. Reference code: epfml/landmark-attention
llama/llama_mem.py and llama/train.py (mem_freq = block - 1, cache_top_k = top_k).

What differs: no cap on visible landmarks (official `max_mem_cnt`), grouped query attention, the
model's own rotary base. Retrieval scores are rounded (to multiples of 2**-30 in float64, 2**-12 in
float32) and the oldest block wins among equal ones: in the first layer all landmark keys are equal,
and the official choice is rounding noise. Chunks end at multiples of their length however the text
is fed; one token appended to a cache is a chunk of its own, as when the official code generates, so
that the two give different numbers by definition of the method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from ctxbench.methods.attention import AttentionCall, AttentionMethod
from ctxbench.methods.base import check_positive
from ctxbench.methods.kernels.attend import is_padded, rows_apart
from ctxbench.methods.kernels.landmark import Memory, landmark_attention
from ctxbench.methods.kernels.plan import FULL, AttentionPlan
from ctxbench.methods.look import TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Self

TOKEN = "<landmark>"
IGNORED = -100
"""Label that the loss leaves out."""


@dataclass(frozen=True, kw_only=True)
class Landmark(AttentionMethod, name="landmark"):
    """A token after every block stands for it, and blocks are retrieved by it.

    Attributes:
        block: tokens of a block, landmark included. The paper: 64.
        top_k: blocks retrieved for each query; 0 for none. Lu et al. 2024: 5.
        trained_length: length of a training sequence, landmarks included, tokens. It sets the
            chunk: what is left of it when `top_k + 1` blocks are reserved. The paper: 512.
        retrieval: `per_token`, or one choice for all tokens of a chunk (`max_over_tokens`), which
            lets a token see which blocks later tokens of its chunk want: not for scoring.
        landmark_in_loss: training predicts landmarks too, and then the token after a landmark is
            predicted from it; else from the token before it.
        token_id: of the landmark; default a new token, its embeddings the mean of all others.
    """

    block: int = 64
    top_k: int = 5
    trained_length: int = 512
    retrieval: Literal["per_token", "max_over_tokens"] = "per_token"
    landmark_in_loss: bool = True
    token_id: int | None = None

    exact = True
    needs_training: ClassVar[bool] = True

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Check that a chunk is left, and set the token."""
        check_positive(self, block=2, top_k=0, trained_length=1, token_id=0)
        method = super().resolve(config)
        if self.chunk < self.block:
            raise ValueError(
                f"method=landmark: trained_length={self.trained_length} has no room for a chunk of "
                f"one block beside top_k + 1 = {self.top_k + 1} blocks of {self.block} tokens. It "
                f"must be at least {(self.top_k + 2) * self.block}; give a longer one, a smaller "
                "top_k, or a smaller block."
            )
        token = config.vocab_size if self.token_id is None else self.token_id
        return replace(method, token_id=token)

    def neutral(self, config: PreTrainedConfig) -> Self:
        """Return the method with a text within one block, and no new token."""
        return replace(self, block=2 * TOKENS, trained_length=16 * TOKENS, top_k=5, token_id=0)

    @property
    def chunk(self) -> int:
        """Tokens read at once, landmarks included."""
        whole = self.trained_length - self.trained_length % self.block
        return whole - (self.top_k + 1) * self.block

    def plan(self, config: PreTrainedConfig) -> AttentionPlan:
        """Return full attention: which tokens are seen is decided by `attend`."""
        return FULL

    def attend(
        self, call: AttentionCall, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Return grouped attention, from memory where the text is longer than a chunk."""

        def one(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            return self._chunks(call, query, key, value)

        if not is_padded(call.positions, len(query)):
            return one(query, key, value)
        return rows_apart(one, query, key, value, call.positions)

    def _chunks(
        self, call: AttentionCall, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        rope, tokens = call.rope, key.shape[2]
        if not (call.plan.stock and rope.relative):
            raise ValueError(
                "method=landmark knows no capped scores, sinks, or norms after the rotation, and "
                "this model has them. Use another method."
            )
        start = tokens - query.shape[2]
        if call.training:
            return landmark_attention(rope, query, key, value, self.block, call.scale)
        memory = Memory(self.top_k, self.retrieval == "max_over_tokens")
        user_tokens = query.shape[2] - (tokens // self.block - start // self.block)
        decoding = start > 0 and user_tokens == 1
        outputs, end = [], start
        while end < tokens:
            first = end if decoding else end - end % self.chunk
            begin, end = end, tokens if decoding else min(first + self.chunk, tokens)
            outputs.append(
                landmark_attention(
                    rope,
                    query[:, :, begin - start : end - start],
                    key[:, :, :end],
                    value[:, :, :end],
                    self.block,
                    call.scale,
                    memory,
                    first,
                )
            )
        return torch.cat(outputs, dim=2)

    # ------------------------------------------------------------- the token

    def edit_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Add the token, where the tokenizer's next number is the one that was chosen.

        Raises:
            ValueError: the number is that of a word, or of another special token.
        """
        if len(tokenizer) == self.token_id:
            tokenizer.add_special_tokens({"additional_special_tokens": [TOKEN]})
        elif self.token_id is not None and len(tokenizer) > self.token_id:
            there = tokenizer.convert_ids_to_tokens(self.token_id)
            usual = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
            added = tokenizer.get_added_vocab()  # type: ignore[operator]
            if there in usual or there not in added:
                raise ValueError(
                    f"method=landmark: token_id={self.token_id} is {there!r} in this tokenizer, "
                    f"not the landmark ({TOKEN}). Give the tokenizer that was trained with it, or "
                    f"token_id={len(tokenizer)} for a new token."
                )

    def edit_model(self, model: PreTrainedModel) -> None:
        """Add the token's embeddings if it has none, and install the attention."""
        super().edit_model(model)
        embedding: Any = model.get_input_embeddings()
        old = embedding.weight.shape[0]
        if self.token_id is not None and self.token_id >= old:
            model.resize_token_embeddings(self.token_id + 1, mean_resizing=False)
            layers: Any = (model.get_input_embeddings(), model.get_output_embeddings())
            with torch.no_grad():
                for layer in layers:
                    layer.weight[old:] = layer.weight[:old].mean(dim=0)

    def encode(self, ids: Sequence[int], start: int) -> tuple[list[int], list[int]]:
        """Return the tokens with landmarks, and where to read what follows each."""
        fed: list[int] = []
        reads = []
        for number, token in enumerate(ids, start + 1):
            fed.append(token)
            reads.append(len(fed) - 1)
            if number % (self.block - 1) == 0:
                fed.append(self.token_id)  # type: ignore[arg-type]
                reads[-1] += self.landmark_in_loss
        return fed, reads

    def edit_batch(
        self, batch: dict[str, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Insert landmarks into training sequences; none follows a block that ends the text."""
        target = self.token_id if self.landmark_in_loss else IGNORED
        # what is inserted, and what pads: a landmark in the loss weighs as much as a word
        fills = {
            "input_ids": (self.token_id, self.token_id),
            "labels": (target, IGNORED),
            "loss_weights": (1.0, 0.0),
        }
        shape = batch["input_ids"].shape
        kept = batch.get("attention_mask", torch.ones(shape)).bool()
        edited = dict(batch)
        for name, (inserted, padding) in fills.items():
            if name in batch:
                rows = [
                    self._with_landmarks(values[mask], inserted)
                    for values, mask in zip(batch[name], kept, strict=True)
                ]
                width = max(map(len, rows))
                edited[name] = torch.stack([_padded(row, width, padding) for row in rows])
                lengths = torch.tensor([len(row) for row in rows])
                edited["attention_mask"] = (torch.arange(width) < lengths[:, None]).long()
        return edited

    def _with_landmarks(self, values: torch.Tensor, inserted: float | None) -> torch.Tensor:
        parts = []
        for piece in values.split(self.block - 1):
            parts += [piece, piece.new_tensor([inserted])]
        return torch.cat(parts[:-1])

    def reuse_key(self, config: PreTrainedConfig, length: int) -> object | None:
        """Return None: what a chunk retrieves depends on where it was cut."""
        return None


def _padded(row: torch.Tensor, width: int, fill: float) -> torch.Tensor:
    return torch.nn.functional.pad(row, (0, width - len(row)), value=fill)
