"""Rows for training, as a pure function of (seed, row number).

There is no sampler and no loader state: row n of a run is the same after any interruption and on
any number of processes, so a resumed run continues bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from ctxbench.train.retrieval import RetrievalRows
from ctxbench.train.sources import Source, TokenStream, open_stream, parse_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Rows(Protocol):
    """A source of rows."""

    name: str
    fingerprint: str
    identity: Any

    @property
    def note(self) -> str:
        """What of it is left out of the loss, if anything."""
        ...

    def count(self, length: int) -> int | None:
        """Return how many different rows there are; None for no end of them."""
        ...

    def row(self, index: int, length: int) -> dict[str, np.ndarray]:
        """Return a row: `input_ids`, `labels` and perhaps more, each `[length]`."""
        ...


class PackedRows:
    """A stream of documents cut every `length` tokens, in an order drawn anew each epoch.

    Documents run on across the cut and see each other inside a row, as in the paper;
    `document_mask` restarts positions at each document, from which transformers keeps them apart.
    """

    def __init__(self, stream: TokenStream, name: str, seed: int, document_mask: bool = False):
        self.stream = stream
        self.name = name
        self.fingerprint = stream.fingerprint
        self.identity: Any = stream.identity or stream.fingerprint
        self.seed = seed
        self.document_mask = document_mask
        self._order: tuple[tuple[int, int], np.ndarray] | None = None
        if document_mask and stream.starts is None:
            raise ValueError(
                f"document_mask=True needs to know where documents begin, but {name} is a bare "
                "array of tokens. Give jsonl or parquet with one document per record, or leave "
                "out document_mask."
            )

    @property
    def note(self) -> str:
        """What is not scored, if anything."""
        spans = self.stream.unscored
        if spans is None:
            return ""
        hidden = int((spans[:, 1] - spans[:, 0]).sum())
        return (
            f"{self.name}: {hidden} of {len(self.stream.tokens)} tokens are not scored, as its "
            "labels say; padding (attention_mask 0) is left out."
        )

    def count(self, length: int) -> int:
        """Return the number of whole rows."""
        return len(self.stream.tokens) // length

    def row(self, index: int, length: int) -> dict[str, np.ndarray]:
        """Return a row: `input_ids`, `labels`, and `position_ids` with `document_mask`."""
        rows = self.count(length)
        if not rows:
            raise ValueError(
                f"{self.name} has {len(self.stream.tokens)} tokens, less than one row of {length}. "
                "Give more data or a shorter length."
            )
        epoch, place = divmod(index, rows)
        begin = int(self._permutation(epoch, rows)[place]) * length
        ids = np.asarray(self.stream.tokens[begin : begin + length], dtype=np.int64)
        labels = self.stream.labels(begin, ids)
        if not self.document_mask:
            return {"input_ids": ids, "labels": labels}
        assert self.stream.starts is not None
        starts = self.stream.starts - begin
        first = np.searchsorted(starts, 0, side="right") - 1
        inside = starts[first:][starts[first:] < length]
        positions = np.arange(length)
        positions -= np.maximum.accumulate(_mark(inside, length))
        labels = np.where(positions == 0, -100, labels)  # no text predicts the next document
        return {"input_ids": ids, "labels": labels, "position_ids": positions}

    def _permutation(self, epoch: int, rows: int) -> np.ndarray:
        if self._order is None or self._order[0] != (epoch, rows):
            order = np.random.default_rng([self.seed, rows, epoch]).permutation(rows)
            self._order = ((epoch, rows), order)
        return self._order[1]


def _mark(starts: np.ndarray, length: int) -> np.ndarray:
    """Return `[length]` with each document's start at its first position in the row.

    A document begun before the row starts, for this row, at its beginning.
    """
    marks = np.zeros(length, dtype=np.int64)
    inside = starts[starts > 0]
    marks[inside] = inside
    return marks


class Mixture:
    """Sources interleaved so that after any number of rows each has its share, within one row."""

    def __init__(self, parts: Sequence[tuple[Rows, float]]):
        self.parts = [rows for rows, _ in parts]
        weights = np.array([weight for _, weight in parts])
        self._shares = weights / weights.sum()
        self._order = np.zeros((0, 2), dtype=np.int64)

    @property
    def identity(self) -> list:
        """What the data are: contents, and shares."""
        return [[p.identity, float(s)] for p, s in zip(self.parts, self._shares, strict=True)]

    @property
    def notes(self) -> list[str]:
        """Sentences about what of the sources is left out of the loss."""
        return [note for part in self.parts if (note := part.note)]

    @property
    def fingerprint(self) -> list:
        """What version 0.1.0 identified the data by: fingerprints and shares."""
        return [[p.fingerprint, float(s)] for p, s in zip(self.parts, self._shares, strict=True)]

    def coverage(self, rows: int, length: int) -> list[tuple[str, int, int]]:
        """Return, of each source that ends, its name, how many rows it has, how many are read.

        Args:
            rows: read of the mixture.
            length: tokens per row.

        Raises:
            ValueError: a source has not one row.
        """
        found = []
        for part, share in zip(self.parts, self._shares, strict=True):
            there = part.count(length)
            if there == 0:
                part.row(0, length)  # says what is wrong
            if there is not None:
                found.append((part.name, there, round(rows * float(share))))
        return found

    def row(self, number: int, length: int) -> dict[str, np.ndarray]:
        """Return row `number` of the run."""
        if len(self.parts) == 1:
            return self.parts[0].row(number, length)
        while number >= len(self._order):
            self._extend_order(max(1024, 2 * len(self._order)))
        part, index = self._order[number]
        return self.parts[part].row(int(index), length)

    def _extend_order(self, rows: int) -> None:
        """Order rows: each time the source that is furthest behind its share."""
        order = np.zeros((rows, 2), dtype=np.int64)
        counts = np.zeros(len(self.parts), dtype=np.int64)
        for number in range(rows):
            part = int(np.argmax(self._shares * (number + 1) - counts))
            order[number] = part, counts[part]
            counts[part] += 1
        self._order = order

    def batch(self, first: int, count: int, length: int) -> dict[str, torch.Tensor]:
        """Return rows `first` to `first + count` as tensors `[count, length]`.

        Where only some rows have `loss_weights`, the others weigh 1; where only some have
        `position_ids`, the others count from 0.
        """
        rows = [self.row(first + i, length) for i in range(count)]
        defaults = {"loss_weights": np.ones(length, np.float32), "position_ids": np.arange(length)}
        names = {name for row in rows for name in row}
        return {
            name: torch.from_numpy(
                np.stack([row[name] if name in row else defaults[name] for row in rows])
            )
            for name in sorted(names)
        }


def open_mixture(
    sources: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    document_mask: bool = False,
) -> Mixture:
    """Return the mixture of sources written `SOURCE[:key=value,...][@weight]`.

    Raises:
        ValueError, FileNotFoundError: a source that cannot be read.
    """
    parts = []
    for number, source in enumerate(map(parse_source, sources)):
        rows = _open_rows(source, tokenizer, seed * 1000 + number, document_mask)
        parts.append((rows, source.weight))
    return Mixture(parts)


def _open_rows(source: Source, tokenizer, seed: int, document_mask: bool) -> Rows:
    if source.name == "stdlib":
        if document_mask:
            raise ValueError(
                "document_mask=True would be ignored for stdlib, whose rows are one document "
                "each. Leave it out, or give other data."
            )
        return RetrievalRows(source, tokenizer, seed)
    stream = open_stream(source, tokenizer)
    return PackedRows(stream, source.name, seed, document_mask)
