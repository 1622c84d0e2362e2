"""RULER's common words extraction: a numbered list in which ten words come more often.

Reference: github.com/NVIDIA/RULER, scripts/data/synthetic/common_words_extraction.py. The official
list is shuffled by a fresh `Random(seed)`, so words of one rank stand at the same places in every
sample of a size; `strict` shuffles each list on its own.
"""

import functools
import random
from dataclasses import dataclass, field

import numpy as np

from ctxbench.tasks.ruler import templates, words
from ctxbench.tasks.ruler.family import Family, Sample, Spec
from ctxbench.tasks.ruler.stream import Stream
from ctxbench.tasks.token_count import CountedText, PromptPart, TokenCounter

COMMON = 10
_NUMBERS: list[str] = []  # "1.", "2.", ...: one list, so that its token sums are made once


def numbers(count: int) -> list[str]:
    """Return the marks of a numbered list; the list is shared and only grows."""
    _NUMBERS.extend(f"{n}." for n in range(len(_NUMBERS) + 1, count + 1))
    return _NUMBERS


@functools.lru_cache(maxsize=64)
def official_layout(count: int, seed: int) -> list[int]:
    """Return how `Random(seed).shuffle` orders a list of `count` items."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def layout(count: int, seed: int | list[int]) -> list[int]:
    """Return the order of a list: official for a seed, uniform and quick for a list of them."""
    if isinstance(seed, int):
        return official_layout(count, seed)
    order = np.random.default_rng(seed).permutation(count)
    last = last_place(count, seed)
    order[np.flatnonzero(order == last)], order[-1] = order[-1], last
    return order.tolist()


def last_place(count: int, seed: int | list[int]) -> int:
    """Return the last item of `layout`; all that counting tokens needs to know of the order."""
    return official_layout(count, seed)[-1] if isinstance(seed, int) else seed[0] % count


@functools.lru_cache(maxsize=8)
def _shuffled(seed: int) -> list[str]:
    source = words.common_words(0)
    return [source[k] for k in np.random.default_rng(seed).permutation(len(source)).tolist()]


@dataclass(frozen=True)
class Counts:
    """How often words stand in a list: the first ten `common` times, the others `rare` times."""

    common: int
    rare: int

    def repeat(self, chosen: list[str]) -> list[str]:
        """Return the list before it is shuffled."""
        return chosen[:COMMON] * self.common + chosen[COMMON:] * self.rare


@dataclass
class CommonWords(Family):
    """Ten common words among rare ones, after one example. Units: different words."""

    new_tokens: int = field(init=False, default=120)

    def __post_init__(self):
        self._template = templates.template("cwe")
        short = self.settings.length < 4096
        self._example_words = 20 if short else 40
        self._example_counts = Counts(3, 1) if short else Counts(10, 3)
        self._counts = Counts(6, 1) if short else Counts(30, 3)

    @property
    def step(self) -> int:
        """Official: 10 words."""
        return 10

    @property
    def most_units(self) -> int:
        """Return how many words LCEG has."""
        return len(words.common_words(self.settings.seed))

    @property
    def fewest_units(self) -> int:
        """Return the common words and one other."""
        return COMMON + 1

    def shrink(self, size: int) -> int:
        """Return the size to try after one that was too long: never fewer than the common words."""
        return size - self.step if size - self.step >= COMMON else size

    def answers(self, sample: Sample) -> str:
        """Return the answers as LCEG's growth counts them."""
        return " " + " ".join(f"{n}. {word}" for n, word in enumerate(sample.outputs, 1))

    def upper_bound(self, stream: Stream, counter: TokenCounter) -> int:
        """Return the largest size the binary search tries."""
        per_word = self.probe(stream, 4096, counter) / 4096
        return int(self.settings.length // per_word) * 2

    def draw(self, stream: Stream, size: int, index: int) -> Spec:
        """Draw in the official order: the example's words, then the list's."""
        if size < COMMON:  # where LCEG's growth ends when its first size is too long
            raise ValueError("fewer words than the common ones")
        place = stream.drawn
        chosen = self._choose(stream, size)
        return {"size": size, "from": [self.settings.seed, place], "_chosen": chosen}

    def _choose(self, stream: Stream, size: int) -> tuple[list[str], list[str]]:
        source = words.common_words(self.settings.seed)
        example = stream.sample(source, self._example_words)
        if size > len(source) and self.settings.fidelity == "nvidia":
            source = words.english_words(self.settings.data_dir)
        return example, stream.sample(source, size)

    def draw_strict(self, stream: Stream, size: int, index: int, depth: float) -> Spec:
        """Choose words and layouts at random; beyond wonderwords' words come pairs of them."""
        return {"size": size, "own": [stream.getrandbits(32) for _ in range(3)]}

    def _choose_strict(self, spec: Spec) -> tuple[list[str], list[str]]:
        seed, other, _ = spec["own"]
        chosen = _shuffled(seed)[: spec["size"]]
        if (more := spec["size"] - len(chosen)) > 0:
            pairs = words.pairs()
            chosen += [pairs[k] for k in random.Random(seed).sample(range(len(pairs)), more)]
        return _shuffled(other)[: self._example_words], chosen

    def sample(self, spec: Spec) -> Sample:
        """Make the prompt: the example with its answer, then the list."""
        if "own" in spec:
            example, chosen = self._choose_strict(spec)
            seeds = [[spec["own"][2], n] for n in (1, 2)]
        else:
            example, chosen = spec.get("_chosen") or self._choose(
                Stream(*spec["from"]), spec["size"]
            )
            seeds = [self.settings.seed] * 2
        head, tail = self._template.body.split("{context}")
        before, after = self.settings.chat
        answer = " ".join(f"{n}. {word}" for n, word in enumerate(example[:COMMON], 1))
        # LCEG has no space between the answer's beginning and the example's answer.
        space = "" if self.settings.fidelity == "lceg" else " "
        end = f"{tail}{after}{self._template.prefix}{space}{answer}\n{before}{head}"
        listed = self._example_counts.repeat(example)
        listed = numbered(listed, layout(len(listed), seeds[0]))
        return Sample(
            parts=[head, listed, end, *self._long_list(chosen, seeds[1]), tail],
            prefix=self._template.prefix,
            outputs=chosen[:COMMON],
        )

    def _long_list(self, chosen: list[str], seed: int | list[int]) -> list[PromptPart]:
        """Return the list: its first number and last word, and what is between by sums."""
        counts = self._counts
        length = COMMON * counts.common + (len(chosen) - COMMON) * counts.rare
        last, many = last_place(length, seed), COMMON * counts.common
        rank = last % COMMON if last < many else COMMON + (last - many) % (len(chosen) - COMMON)
        last_word = chosen[rank]

        def text() -> str:
            listed = numbered(counts.repeat(chosen), layout(length, seed))
            return listed[len("1.") : -len(f" {last_word}")]

        def tokens(counter: TokenCounter) -> int:
            costs = counter.costs(chosen)
            total = sum(costs[:COMMON]) * counts.common + sum(costs[COMMON:]) * counts.rare
            marks = counter.between(numbers(length), 1, length)
            return total + marks - counter.costs([last_word])[0]

        return ["1.", CountedText(text, tokens), f" {last_word}"]


def numbered(listed: list[str], order: list[int]) -> str:
    """Return a list in an order as "1. word 2. word ..."."""
    marks = numbers(len(order))[: len(order)]
    return " ".join([f"{mark} {listed[k]}" for mark, k in zip(marks, order, strict=True)])
