"""Which documents go into a token store, and where: arithmetic on arrays, no files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctxbench.core.errors import near_names
from ctxbench.train.tokens.documents import Scanned
from ctxbench.train.tokens.request import CHARACTERS_PER_TOKEN, StoreRequest
from ctxbench.train.tokens.store import PLACED

_MARGIN = 1.03
"""Documents are tokenised for this much more than the budget, so that one more round is rare."""


@dataclass(frozen=True)
class Pieces:
    """The documents that were tokenised.

    Attributes:
        tokens: `[documents]` tokens of each; -1 where it was not tokenised.
        file: `[documents]` index into `files`.
        start: `[documents]` where it begins in its file, tokens.
        files: of tokens.
    """

    tokens: np.ndarray
    file: np.ndarray
    start: np.ndarray
    files: list[Path]


@dataclass(frozen=True)
class Layout:
    """A whole store, before it is written.

    Attributes:
        documents: records of `PLACED`, in order.
        file: `[documents]` index into `files` of each.
        start: `[documents]` where it begins there, tokens.
        files: of tokens.
        names: of the sources.
        content: hash of the documents' keys, which are hashes of their texts.
    """

    documents: np.ndarray
    file: np.ndarray
    start: np.ndarray
    files: list[Path]
    names: list[str]
    content: str

    @property
    def total(self) -> int:
        """Tokens of the store."""
        return int(self.documents["length"].sum())

    def segments(self, begin: int, end: int) -> Iterator[tuple[Path, int, int]]:
        """Yield (file, first token, tokens) that make up tokens `begin` to `end` of the store."""
        offsets, lengths = self.documents["offset"], self.documents["length"]
        first = int(np.searchsorted(offsets, begin, side="right")) - 1
        for i in range(first, len(offsets)):
            if offsets[i] >= end:
                break
            skip = max(begin - int(offsets[i]), 0)
            count = min(int(offsets[i] + lengths[i]), end) - int(offsets[i]) - skip
            yield self.files[self.file[i]], int(self.start[i]) + skip, count


def choose_next(request: StoreRequest, scanned: Scanned, pieces: Pieces) -> np.ndarray:
    """Return indices of the documents to tokenise next; none when every budget is filled.

    Raises:
        ValueError: a source has not enough documents; says how many tokens it has.
    """
    chosen = []
    for name, budget in request.budgets().items():
        order = _in_order(request, scanned, name)
        tokens = pieces.tokens[order]
        done = int((tokens >= 0).sum())  # always the first ones
        missing = budget - int(tokens[:done].sum())
        if missing <= 0:
            continue
        if done == len(order):
            raise ValueError(_too_little(request, name, budget, budget - missing))
        characters = scanned.documents["characters"][order]
        ratio = CHARACTERS_PER_TOKEN
        if done:
            ratio = characters[:done].sum() / max(tokens[:done].sum(), 1)
        expected = np.cumsum(characters[done:]) / ratio
        enough = int(np.searchsorted(expected, missing * _MARGIN)) + 1
        chosen.append(order[done : done + enough])
    return np.sort(np.concatenate(chosen)) if chosen else np.array([], dtype=np.int64)


def lay_out(request: StoreRequest, scanned: Scanned, pieces: Pieces) -> Layout:
    """Return the store: each source's first documents, spread evenly over the whole.

    A document stands where the share of its source's budget that is used up by its middle is the
    share of the store that lies before it.
    """
    indices, lengths, places = [], [], []
    for name, budget in request.budgets().items():
        order = _in_order(request, scanned, name)
        tokens = pieces.tokens[order][: int((pieces.tokens[order] >= 0).sum())]
        ends = np.cumsum(tokens)
        count = int(np.searchsorted(ends, budget)) + 1 if budget else 0
        taken = tokens[:count].copy()
        if count:
            taken[-1] -= ends[count - 1] - budget  # cut, so that the budget is met exactly
        indices.append(order[:count])
        lengths.append(taken)
        places.append((ends[:count] - tokens[:count] / 2) / max(budget, 1))
    index, length = np.concatenate(indices), np.concatenate(lengths)
    spread = np.argsort(np.concatenate(places), kind="stable")
    index, length = index[spread], length[spread]
    documents = np.zeros(len(index), dtype=PLACED)
    documents["length"] = length
    documents["offset"] = np.cumsum(length) - length
    documents["source"] = scanned.documents["source"][index]
    keys = np.ascontiguousarray(scanned.documents["order"][index])
    return Layout(
        documents,
        pieces.file[index],
        pieces.start[index],
        pieces.files,
        scanned.names,
        hashlib.sha256(keys.tobytes()).hexdigest(),
    )


def _in_order(request: StoreRequest, scanned: Scanned, name: str) -> np.ndarray:
    """Return the indices of the documents of one budget, in the order in which they are taken.

    Raises:
        ValueError: the corpus has no such source.
    """
    documents = scanned.documents
    if request.mix:
        if name not in scanned.names:
            there = ", ".join(map(repr, scanned.names)) or "none"
            raise ValueError(
                f"The mix asks for source {name!r}, but no document is labelled so"
                f"{near_names(name, scanned.names)} Sources of these documents: {there} ('' where "
                "a document has no label). Name the column that says it (--label), or change --mix."
            )
        (mine,) = np.nonzero(documents["source"] == scanned.names.index(name))
    else:
        mine = np.arange(len(documents))
    return mine[np.lexsort((documents["tie"][mine], documents["order"][mine]))]


def _too_little(request: StoreRequest, name: str, budget: int, found: int) -> str:
    what = f"source {name!r}" if name else "the documents"
    fits = int(request.tokens * found / budget)
    return (
        f"{budget:,} tokens were asked of {what}, but what is left of them after thinning holds "
        f"{found:,}. Give more files, --tokens {fits} or fewer, a higher --keep-short "
        f"({request.keep_short} now), or another --mix."
    )
