"""RULER's frequent words extraction: coded words with Zipf counts, the three most frequent asked.

Reference: github.com/NVIDIA/RULER, scripts/data/synthetic/freq_words_extraction.py. The word of
rank k comes int(n k^-alpha / zeta(alpha)) times; rank 1 is the noise "...". The official text is
shuffled by a fresh `Random(seed)`, so its layout is the same in all samples; `strict` shuffles
each on its own.
"""

import math
import string
from dataclasses import dataclass, field

import numpy as np

from ctxbench.tasks.ruler import templates
from ctxbench.tasks.ruler.cwe import layout
from ctxbench.tasks.ruler.family import DoesNotFit, Family, Sample, Spec
from ctxbench.tasks.ruler.stream import Stream
from ctxbench.tasks.token_count import CountedText, PromptPart, TokenCounter

_LETTERS = 6
_ALPHA = 2.0
_ZETA = math.pi**2 / 6  # zeta(2)
_NOISE = "..."


def word_counts(size: int, vocabulary: int) -> list[int]:
    """Return how often each rank comes in a text of about `size` words, for those that do."""
    ranks = np.arange(1, vocabulary + 1)
    counts = (size * (ranks**-_ALPHA) / _ZETA).astype(int)
    return [int(count) for count in counts if count]


@dataclass
class FrequentWords(Family):
    """Coded words of six letters. Units: words asked for (rounding loses a few)."""

    new_tokens: int = field(init=False, default=50)

    def __post_init__(self):
        self._template = templates.template("fwe")
        # LCEG's budget forgets the new tokens: its prompts can be longer than the length.
        lceg = self.settings.fidelity == "lceg"
        self._budget = self.settings.length - (0 if lceg else self.new_tokens)
        self._vocabulary = self._budget // 50

    @property
    def step(self) -> int:
        """Official: a 32nd of the budget."""
        return self._budget // 32

    @property
    def fewest_units(self) -> int:
        """Return a size at which ranks two to four come."""
        return 4 * 4 * 2

    def _draw_words(self, stream: Stream) -> list[str]:
        """Draw the vocabulary in the official order: sorted, then shuffled by a fresh seed."""
        drawn = [
            "".join(stream.choices(string.ascii_lowercase, k=_LETTERS))
            for _ in range(self._vocabulary)
        ]
        while len(set(drawn)) < self._vocabulary:
            drawn.append("".join(stream.choices(string.ascii_lowercase, k=_LETTERS)))
        ranked = sorted(set(drawn))
        Stream(self.settings.seed).shuffle(ranked)
        return [_NOISE, *ranked[1:]]

    def draw(self, stream: Stream, size: int, index: int) -> Spec:
        """Draw the words; keep those that come in a text of this size."""
        ranked = self._draw_words(stream)
        return {"size": size, "words": ranked[: len(word_counts(size, self._vocabulary))]}

    def draw_strict(self, stream: Stream, size: int, index: int, depth: float) -> Spec:
        """Draw words and a layout of their own."""
        own = [stream.getrandbits(32), 0]
        drawn: dict[str, None] = {_NOISE: None}
        while len(drawn) < len(word_counts(size, self._vocabulary)):
            drawn["".join(stream.choices(string.ascii_lowercase, k=_LETTERS))] = None
        return {"size": size, "words": list(drawn), "own": own}

    def sample(self, spec: Spec) -> Sample:
        """Make the prompt."""
        head, tail = self._template.body.split("{context}")
        return Sample(
            parts=[head, *self._text(spec), tail],
            prefix=self._template.prefix,
            outputs=spec["words"][1:4],
        )

    def _text(self, spec: Spec) -> list[PromptPart]:
        ranked = spec["words"]
        counts = word_counts(spec["size"], self._vocabulary)
        total = sum(counts)
        ends = np.cumsum(counts)
        order = layout(total, spec.get("own", self.settings.seed))

        def word(place: int) -> str:
            return ranked[int(np.searchsorted(ends, order[place], side="right"))]

        def text() -> str:
            listed = [
                word for word, count in zip(ranked, counts, strict=True) for _ in range(count)
            ]
            return " " + " ".join([listed[k] for k in order[1:-1]])

        def tokens(counter: TokenCounter) -> int:
            costs = counter.costs(ranked)
            both = sum(counter.costs([word(0), word(-1)]))
            return sum(c * n for c, n in zip(costs, counts, strict=True)) - both

        return [word(0), CountedText(text, tokens), f" {word(-1)}"]

    # The official generator has its own search, by prompts without the new tokens.

    def search(self, stream: Stream, counter: TokenCounter) -> int:
        """Find the official size: words are added, in one vocabulary, until the budget is full."""
        spec = {"words": self._draw_words(stream), "size": self._budget // _LETTERS}

        def tokens() -> int:
            used = spec["words"][: len(word_counts(spec["size"], self._vocabulary))]
            return self.count(counter, self.sample(spec | {"words": used})) - self.new_tokens

        while tokens() < self._budget:
            spec["size"] += self.step
        return spec["size"] - self.step

    def grow(self, stream: Stream, counter: TokenCounter) -> int:
        """Find LCEG's size, in the same way."""
        return self.search(stream, counter)

    def fit(
        self, stream: Stream, counter: TokenCounter, size: int, index: int
    ) -> tuple[Spec, Sample, int]:
        """Draw one sample and take words away, in its vocabulary, until it fits."""
        ranked = self._draw_words(stream)
        fewest = None
        while size > 0:
            used = ranked[: len(word_counts(size, self._vocabulary))]
            if len(used) < 4:
                break
            spec = {"size": size, "words": used}
            sample = self.sample(spec)
            fewest = self.count(counter, sample)
            if fewest - self.new_tokens <= self._budget:
                return spec, sample, fewest
            size -= self.step
        raise DoesNotFit(fewest)
