"""What the RULER families share: a sample as a spec, and the three ways to size it.

A family draws *specs*: small dictionaries from which a prompt can be made again without the
tokenizer. `sample` turns a spec into the parts of a prompt. The sizing below decides how much
haystack a spec gets:

- `nvidia`: the official generator (github.com/NVIDIA/RULER, scripts/data/synthetic). A binary
  search with one random sample per probe, then samples that lose one step whenever they are too
  long. One stream of random numbers for everything, so the order of every draw matters.
- `lceg`: the copy in github.com/Leooyii/LCEG: linear growth, counting the answer too.
- `strict`: ours. Each sample has its own stream and gets as many units as fit.
"""

import itertools
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ctxbench.tasks.ruler.stream import Stream
from ctxbench.tasks.token_count import PromptPart, TokenCounter

Spec = dict[str, Any]

# Redraws of a sample at its smallest size after which we say that the official `while True` loop
# would not end. Where the haystack is random a redraw can help; it does within a few.
REDRAWS = 50


class DoesNotFit(Exception):
    """A sample cannot be made at this length.

    Attributes:
        tokens: the fewest it was seen to need, new tokens included; None when out of questions.
    """

    def __init__(self, tokens: int | None):
        super().__init__(tokens)
        self.tokens = tokens


@dataclass(frozen=True)
class RulerSettings:
    """What the samples of one leaf depend on besides its subtask and the tokenizer.

    Attributes:
        length: tokens of prompt and answer together.
        samples: how many.
        seed: of all random numbers.
        fidelity: nvidia, lceg or strict.
        chat: text before and after the user's message in the chat template; empty without one.
        data_dir: searched for local data first.
    """

    length: int
    samples: int = 500
    seed: int = 42
    fidelity: str = "nvidia"
    chat: tuple[str, str] = ("", "")
    data_dir: str | None = None


@dataclass(frozen=True)
class Sample:
    """A sample made from its spec.

    Attributes:
        parts: of the prompt, up to the answer's beginning.
        prefix: the answer's beginning.
        outputs: the references.
        depth: where the answer lies, 0 (start) to 1; None where it is everywhere.
    """

    parts: list[PromptPart]
    prefix: str
    outputs: list[str]
    depth: float | None = None


@dataclass
class Family(ABC):
    """One of the five kinds of subtasks, under its settings."""

    settings: RulerSettings
    new_tokens: int = field(init=False)

    @property
    @abstractmethod
    def step(self) -> int:
        """Units that a sample which is too long loses at once."""

    @abstractmethod
    def draw(self, stream: Stream, size: int, index: int) -> Spec:
        """Draw sample number `index` with `size` units of haystack, as the official code does.

        Raises:
            ValueError: so few units cannot hold it.
        """

    @abstractmethod
    def draw_strict(self, stream: Stream, size: int, index: int, depth: float) -> Spec:
        """Draw a sample whose answer lies at `depth`; more units only add to it."""

    @abstractmethod
    def sample(self, spec: Spec) -> Sample:
        """Make the sample of a spec."""

    def answers(self, sample: Sample) -> str:
        """Return what LCEG's growth counts behind the prompt."""
        return f" {sample.outputs}"

    @property
    def most_units(self) -> int | None:
        """Return where LCEG stops growing: the units its source has."""
        return None

    def begin(self, stream: Stream, counter: TokenCounter) -> None:  # noqa: B027  (optional)
        """Draw what comes before all samples."""

    def count(self, counter: TokenCounter, sample: Sample) -> int:
        """Count a sample's tokens, chat template and new tokens included."""
        head, tail = self.settings.chat
        return counter.count([head, *sample.parts, tail + sample.prefix]) + self.new_tokens

    def depth(self, counter: TokenCounter, sample: Sample, tokens: int) -> float | None:
        """Return where the answer lies, 0 to 1; None where it is everywhere."""
        return sample.depth

    # -- nvidia and lceg ---------------------------------------------------------------------

    @property
    def overhead(self) -> int:
        """Tokens that the search for a size adds to a probe's prompt."""
        return self.new_tokens

    def probe(self, stream: Stream, size: int, counter: TokenCounter, answers: bool = False) -> int:
        """Count the prompt of a random sample, and LCEG's answers behind it."""
        sample = self.sample(self.draw(stream, size, 0))
        head, tail = self.settings.chat
        end = tail + sample.prefix + (self.answers(sample) if answers else "")
        return counter.count([head, *sample.parts, end])

    def upper_bound(self, stream: Stream, counter: TokenCounter) -> int:
        """Return the largest size the binary search tries."""
        per_unit = self.probe(stream, self.step, counter) / self.step
        return int(self.settings.length / per_unit * 3)

    def search(self, stream: Stream, counter: TokenCounter) -> int:
        """Find the official haystack size."""
        best = self.step
        upper = max(self.upper_bound(stream, counter), self.step * 2)
        lower = self.step
        while lower <= upper:
            middle = (lower + upper) // 2
            if self.probe(stream, middle, counter) + self.overhead <= self.settings.length:
                best, lower = middle, middle + 1
            else:
                upper = middle - 1
        return best

    def grow(self, stream: Stream, counter: TokenCounter) -> int:
        """Find LCEG's haystack size."""
        size, total = self.step, 0
        while total < self.settings.length:
            total = self.probe(stream, size, counter, answers=True) + self.overhead
            if total > self.settings.length:
                return size - self.step
            size += self.step
            if self.most_units is not None and size > self.most_units:
                return self.most_units
        return size

    def shrink(self, size: int) -> int:
        """Return the size to try after one that was too long."""
        return size - self.step if size > self.step else size

    def fit(
        self, stream: Stream, counter: TokenCounter, size: int, index: int
    ) -> tuple[Spec, Sample, int]:
        """Draw one sample until it fits, as the official loop does."""
        fewest, stuck = None, 0
        while stuck < REDRAWS:
            try:
                spec = self.draw(stream, size, index)
            except ValueError:
                if self.shrink(size) == size:
                    break
            else:
                sample = self.sample(spec)
                tokens = self.count(counter, sample)
                if tokens <= self.settings.length:
                    return spec, sample, tokens
                fewest = min(tokens, fewest or tokens)
            if self.shrink(size) == size:
                stuck += 1
                if stuck == 1 and self.hopeless(counter, size, index):
                    break
            size = self.shrink(size)
        raise DoesNotFit(fewest)

    def hopeless(self, counter: TokenCounter, size: int, index: int) -> bool:
        """Say whether no draw of this sample can fit, so that the official loop never ends."""
        return False

    # -- strict ------------------------------------------------------------------------------

    def fill(
        self, counter: TokenCounter, index: int, depth: float, guess: int
    ) -> tuple[Spec, Sample, int]:
        """Draw one sample with as many units as fit."""
        found: dict[int, tuple[Spec, Sample, int]] = {}

        def tokens(size: int) -> int:
            spec = self.draw_strict(self.own_stream(index), size, index, depth)
            sample = self.sample(spec)
            found[size] = (spec, sample, self.count(counter, sample))
            return found[size][2]

        size = largest_that_fits(tokens, self.settings.length, self.fewest_units, guess)
        if size is None:
            raise DoesNotFit(tokens(self.fewest_units))
        return found[size]

    @property
    def fewest_units(self) -> int:
        """Return the smallest size a strict sample can have."""
        return 1

    def own_stream(self, index: int) -> Stream:
        """Return the private stream of a strict sample."""
        return Stream(self.own_seed(index))

    def own_seed(self, index: int) -> str:
        """Return the seed of a strict sample's stream."""
        return f"{self.settings.seed}/{type(self).__name__}/{self.settings.length}/{index}"

    # -- all samples -------------------------------------------------------------------------

    def make(self, counter: TokenCounter) -> Iterator[tuple[Spec, Sample, int] | DoesNotFit]:
        """Make samples for ever, or until the questions end; `DoesNotFit` for each one skipped."""
        if self.settings.fidelity == "strict":
            yield from self._make_strict(counter)
            return
        stream = Stream(self.settings.seed)
        self.begin(stream, counter)
        lceg = self.settings.fidelity == "lceg"
        size = self.grow(stream, counter) if lceg else self.search(stream, counter)
        for index in self.indices():
            try:
                yield self.fit(stream, counter, size, index)
            except DoesNotFit as unfit:
                yield unfit

    def _make_strict(
        self, counter: TokenCounter
    ) -> Iterator[tuple[Spec, Sample, int] | DoesNotFit]:
        self.begin(self.own_stream(-1), counter)
        strata = list(range(self.settings.samples))
        shuffler = random.Random(self.own_seed(-2))
        shuffler.shuffle(strata)
        made, guess = 0, self.step
        for index in self.indices():
            # One sample per stratum: the depths of all samples cover 0 to 1 evenly.
            depth = (strata[made % len(strata)] + shuffler.random()) / len(strata)
            try:
                sample = self.fill(counter, index, depth, guess)
            except DoesNotFit as unfit:
                yield unfit
            else:
                made, guess = made + 1, sample[0]["size"]
                yield sample

    @property
    def questions(self) -> int | None:
        """Return how many samples there can be; None without end."""
        return None

    def indices(self) -> Iterator[int]:
        """Yield sample numbers."""
        return itertools.islice(itertools.count(), self.questions)


def largest_that_fits(
    tokens: Callable[[int], int], limit: int, fewest: int, guess: int
) -> int | None:
    """Return a size whose tokens are within the limit while one more unit's are not.

    `tokens` grows nearly in proportion to the size, so a few looks are enough.
    """
    low, high = None, None  # a size that fits; one that does not
    size, per_unit = max(guess, fewest), 0.0
    first = (0, 0)
    while low is None or high is None or high - low > 1:
        count = tokens(size)
        if count <= limit:
            low = size
        elif size == fewest:
            return None
        else:
            high = size
        if abs(size - first[0]) > 8 or not per_unit:  # nearer sizes say too little
            per_unit = max((count - first[1]) / (size - first[0] or 1), 1e-3)
            first = (size, count)
        size += math.floor((limit - count) / per_unit)
        size = max(size, fewest if low is None else low + 1)
        size = size if high is None else min(size, high - 1)
    return low
