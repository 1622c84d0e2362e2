r"""Documents that train retrieval: standard-library text with `# noun 1234` lines.

A line `\n# falcon 4821\n` states a value once; a later line with the same noun asks for it, and
only there are the digits predictable. The loss leaves out what cannot be known (first values, the
nouns) and counts answers twice. Copy documents, a random segment over and over, are what an
induction head forms on first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from ctxbench.core.settings import Parsed, Share
from ctxbench.core.stdlib_corpus import NOUNS, is_held_out, stdlib_files
from ctxbench.train.sources import Source, TokenStream, cached_stream, encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER_WEIGHT = 2.0
COPY_WEIGHT = 1.5


def _low_and_high(text: str) -> list[int]:
    low, high = map(int, text.split("-"))
    if not 1 <= low <= high:
        raise ValueError
    return [low, high]


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions:
    """How the documents of the `stdlib` source are made.

    Attributes:
        split: `train`, or `held_out`, the files that evaluation uses.
        keys: fewest and most nouns per document.
        text: share of rows that are plain text.
        copy: share of rows that are a repeated segment.
        far: share of nouns stated in the first half and asked for in the last quarter.
    """

    split: Literal["train", "held_out"] = "train"
    keys: Annotated[tuple[int, ...], Parsed(_low_and_high, "LOW-HIGH such as 4-24")] = (4, 24)
    text: Share = 0.2
    copy: Share = 0.0
    far: Share = 0.5


def stdlib_stream(split: str, tokenizer: PreTrainedTokenizerBase) -> TokenStream:
    """Return the standard library's text of one split as tokens."""
    files = [(n, text) for n, text in stdlib_files() if is_held_out(n) == (split == "held_out")]
    stamp = [[name, len(text), text[:64], text[-64:]] for name, text in files]
    return cached_stream(["stdlib", stamp], files, tokenizer)


@dataclass(frozen=True)
class Line:
    """A line `# noun 1234` in token ids.

    Attributes:
        ids: all of it, line ends included.
        answer: where the value is in it.
    """

    ids: list[int]
    answer: slice

    def weights(self, is_question: bool) -> np.ndarray:
        """Return loss weights: of the value if it can be known, and of the last line end."""
        weights = np.zeros(len(self.ids))
        weights[self.answer.stop :] = 1
        if is_question:
            weights[self.answer] = ANSWER_WEIGHT
        return weights


class RetrievalRows:
    """Rows of retrieval documents, made from their index."""

    def __init__(self, source: Source, tokenizer: PreTrainedTokenizerBase, seed: int):
        self.name = source.name
        self.options = source.read_options(RetrievalOptions)
        self.stream = stdlib_stream(self.options.split, tokenizer)
        self.fingerprint = self.stream.fingerprint
        self.identity = [self.stream.identity, sorted(source.options.items())]
        self.seed = seed
        self._encoder = encoder(tokenizer)
        self._vocabulary = len(tokenizer)

    @property
    def note(self) -> str:
        """Nothing is left out."""
        return ""

    def count(self, length: int) -> int | None:
        """Return how many different rows there are: no end of them."""
        return None

    def row(self, index: int, length: int) -> dict[str, np.ndarray]:
        """Return a row as `input_ids`, `labels`, `loss_weights`, each `[length]`."""
        random = np.random.default_rng([self.seed, length, index])
        if random.random() < self.options.copy:
            ids, weights = self._copy(random, length)
        elif random.random() < self.options.text:
            ids, weights = self._text(random, length), np.ones(length, np.float32)
        else:
            ids, weights = self._retrieval(random, length)
        return {"input_ids": ids, "labels": ids, "loss_weights": weights}

    def _text(self, random: np.random.Generator, length: int) -> np.ndarray:
        begin = int(random.integers(0, len(self.stream.tokens) - length))
        return np.asarray(self.stream.tokens[begin : begin + length], dtype=np.int64)

    def _copy(self, random: np.random.Generator, length: int) -> tuple[np.ndarray, np.ndarray]:
        period = int(random.integers(6, length // 2 + 1))
        segment = random.integers(1, self._vocabulary, period)
        if random.random() < 0.5:  # of what retrieval lines are made of
            lines = self._lines(random, period // 4 + 1)
            segment = np.concatenate([line.ids for line in lines])[:period]
            random.shuffle(segment)
            period = len(segment)
        weights = np.full(length, COPY_WEIGHT, np.float32)
        weights[: period + 1] = 0
        return np.resize(segment, length).astype(np.int64), weights

    def _lines(self, random: np.random.Generator, count: int) -> list[Line]:
        """Return lines with different nouns."""
        nouns = random.choice(len(NOUNS), min(count, len(NOUNS)), replace=False)
        end = len(self._encode("\n"))
        lines = []
        for noun in nouns:
            value = int(random.integers(0, 10_000))
            ids = self._encode(f"\n# {NOUNS[noun]} {value:04d}\n")
            prefix = len(self._encode(f"\n# {NOUNS[noun]}"))
            lines.append(Line(ids, slice(prefix, len(ids) - end)))
        return lines

    def _encode(self, text: str) -> list[int]:
        return self._encoder.encode(text, add_special_tokens=False).ids

    def _retrieval(self, random: np.random.Generator, length: int) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.options.keys
        lines = self._lines(random, int(random.integers(low, high + 1)))
        while (inserted := 2 * sum(len(line.ids) for line in lines)) > length:
            lines.pop()
        events = []
        for line in lines:
            stated, asked = np.sort(random.random(2))
            if random.random() < self.options.far:
                stated, asked = stated / 2, 0.75 + asked / 4
            events += [(stated, False, line), (asked, True, line)]
        events.sort(key=lambda event: event[0])
        text = self._text(random, length - inserted)
        ids: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        last = 0
        for place, is_question, line in events:
            cut = int(place * len(text))
            ids += [text[last:cut], np.array(line.ids)]
            weights += [np.ones(cut - last), line.weights(is_question)]
            last = cut
        ids.append(text[last:])
        weights.append(np.ones(len(text) - last))
        return np.concatenate(ids).astype(np.int64), np.concatenate(weights).astype(np.float32)
