"""RULER's variable tracking: a chain of assignments scattered over noise, one example before it.

Reference: github.com/NVIDIA/RULER, scripts/data/synthetic/variable_tracking.py, and for `lceg` the
older copy in github.com/Leooyii/LCEG (statements inside the noise lines, one fixed example).
"""

import itertools
import string
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ctxbench.tasks.ruler import templates
from ctxbench.tasks.ruler.family import DoesNotFit, Family, Sample, Spec
from ctxbench.tasks.ruler.stream import Stream
from ctxbench.tasks.token_count import PromptPart, TokenCounter, render, repeated_line

_EXAMPLE_TOKENS = 500
_EXAMPLE_VALUE = "12345"  # what the official example holds before it is replaced


def chain(names: list[str], value: str) -> list[str]:
    """Return the statements that hand a value through variables."""
    links = [f"VAR {name} = VAR {before} " for before, name in itertools.pairwise(names)]
    return [f"VAR {names[0]} = {value}", *links]


@dataclass
class VariableTracking(Family):
    """One chain of `hops` + 1 variables; all of them are the answer. Units: noise lines.

    The statements' places in a spec are line numbers before any insertion, in order.
    """

    hops: int = 4
    is_example: bool = False
    new_tokens: int = field(init=False, default=30)

    def __post_init__(self):
        self._lceg = self.settings.fidelity == "lceg"
        self._template = templates.template("vt", misspelled=self._lceg)
        self._noise = templates.noise()
        self._values = np.random.RandomState(self.settings.seed)
        self._example_spec: Spec = {}
        self._example_tokens = 0
        if self.is_example:
            # LCEG's example pays for new tokens too, and loses the line breaks and last word of
            # its question.
            self.new_tokens = self.new_tokens if self._lceg else 0
            if self._lceg:
                body = " ".join(self._template.body.split()[:-1])
                self._template = replace(self._template, body=body)

    @property
    def step(self) -> int:
        """Official: 10 lines; 5 in the example, and below 4k (not in LCEG)."""
        short = self.is_example or (self.settings.length < 4096 and not self._lceg)
        return 5 if short else 10

    @cached_property
    def _example(self) -> "VariableTracking":
        fidelity = "lceg" if self._lceg else "nvidia"
        settings = replace(self.settings, length=_EXAMPLE_TOKENS, fidelity=fidelity, chat=("", ""))
        return VariableTracking(settings, hops=self.hops, is_example=True)

    def begin(self, stream: Stream, counter: TokenCounter) -> None:
        """Draw the example as the official code does: a sample of at most 500 tokens."""
        if self.is_example:
            return
        example = self._example
        size = example.grow(stream, counter) if self._lceg else example.search(stream, counter)
        self._values = example._values
        try:
            self._example_spec, _, _ = example.fit(stream, counter, size, 0)
        except DoesNotFit as shortest:
            raise ValueError(
                f"RULER's variable tracking shows an example of at most {_EXAMPLE_TOKENS} tokens, "
                f"and the shortest has {shortest.tokens} with this tokenizer (the official "
                "generator never ends there). Leave the subtask vt out."
            ) from None
        self._example_tokens = counter.count([self._example_text(self._example_spec)])

    def _example_text(self, spec: Spec) -> str:
        """Return the example with its answer."""
        sample = self._example.sample(spec)
        names = " ".join(spec["names"])
        return f"{render(sample.parts)}{sample.prefix} {names}" + ("\n\n" if self._lceg else "\n")

    def _draw_names(self, stream: Stream, letters: int) -> list[str]:
        return [
            "".join(stream.choices(string.ascii_uppercase, k=letters)) for _ in range(self.hops + 1)
        ]

    def _draw_value(self) -> str:
        return str(self._values.randint(10000, 99999))

    def draw_chain(self, stream: Stream, size: int, index: int) -> Spec:
        """Draw in the official order: names, value, places."""
        names = self._draw_names(stream, 3 if self.is_example else 5)
        fixed = self.is_example and not self._lceg
        value = _EXAMPLE_VALUE if fixed else self._draw_value()
        if len(set(names)) < len(names):
            # The official code draws more names, begins a second chain with them and fails.
            while len(set(names)) < self.hops + 1:
                names += ["".join(stream.choices(string.ascii_uppercase, k=len(names[0])))]
            if not fixed:
                self._draw_value()
            raise ValueError("two variables of one name")
        at = sorted(stream.sample(range(self._places(size)), self.hops + 1))
        marked = index % (self.hops + 1)
        return {"size": size, "names": names, "value": value, "at": at, "marked": marked}

    def draw(self, stream: Stream, size: int, index: int) -> Spec:
        """Draw the chain, then the example's new names and value (LCEG: the example as it is)."""
        spec = self.draw_chain(stream, size, index)
        if self.is_example:
            return spec
        example = self._example_spec
        if not self._lceg:
            names = self._draw_names(stream, 3)
            example = example | {"new_names": names, "new_value": self._draw_value()}
        return spec | {"example": example}

    @property
    def overhead(self) -> int:
        """Tokens that the search for a size adds to a probe's prompt."""
        return self.new_tokens + self._example_tokens

    def probe(self, stream: Stream, size: int, counter: TokenCounter, answers: bool = False) -> int:
        """Count the prompt of a random chain, without its example."""
        sample = self.sample(self.draw_chain(stream, size, 0))
        head, tail = self.settings.chat
        end = tail + sample.prefix + (self.answers(sample) if answers else "")
        return counter.count([head, *sample.parts, end])

    def count(self, counter: TokenCounter, sample: Sample) -> int:
        """Count a sample; LCEG counts chain and example apart."""
        if not self._lceg or self.is_example:
            return super().count(counter, sample)
        example, *chain_parts = sample.parts
        shown = counter.count([render([example])[1:-2]])  # without what stands around it
        return counter.count([*chain_parts, sample.prefix]) + shown + self.new_tokens

    def shrink(self, size: int) -> int:
        """Return the size to try after one that was too long; LCEG tries the same again."""
        return size if self._lceg else super().shrink(size)

    def _places(self, size: int) -> int:
        """Return how many pieces the noise has: lines, or sentences in LCEG's shortest example."""
        return size * (self._noise.count(".") + 1) if self._splits(size) else size

    def _splits(self, size: int) -> bool:
        return self._lceg and size <= self.hops + 1

    def draw_strict(self, stream: Stream, size: int, index: int, depth: float) -> Spec:
        """Draw all statements at random, one of them at `depth`; the example too."""
        depths = [depth, *(stream.random() for _ in range(self.hops))]
        lines = self._example_spec["size"]
        example = {
            "size": lines,
            "names": self._distinct_names(stream, 3),
            "value": str(stream.randrange(10000, 99999)),
            "at": sorted(stream.sample(range(lines + 1), self.hops + 1)),
            "marked": 0,
        }
        return {
            "size": size,
            "names": self._distinct_names(stream, 5),
            "value": str(stream.randrange(10000, 99999)),
            "at": sorted(int(d * (size + 1)) for d in depths),
            "marked": sorted(depths).index(depth),
            "example": example,
        }

    def _distinct_names(self, stream: Stream, letters: int) -> list[str]:
        names = self._draw_names(stream, letters)
        while len(set(names)) < len(names) or "VAR" in names:
            names = self._draw_names(stream, letters)
        return names

    def sample(self, spec: Spec) -> Sample:
        """Make the prompt: the example, then the chain in its noise."""
        body, tail = self._template.body.split("{context}")
        texts = {"query": spec["value"], "num_v": self.hops + 1}
        statements = chain(spec["names"], spec["value"])
        context = self._inside_lines if self._lceg else self._between_lines
        parts = [body, *context(spec, statements), tail.format(**texts)]
        return Sample(
            parts=[self._example_of(spec), *parts],
            prefix=self._template.prefix.format(**texts),
            outputs=spec["names"],
            depth=spec["at"][spec["marked"]] / max(spec["size"], 1),
        )

    def _example_of(self, spec: Spec) -> str:
        if "example" not in spec:
            return ""
        example = spec["example"]
        text = self._example_text(example)
        if self._lceg:
            return f" {text}\n\n"
        if "new_names" in example:
            olds = [*example["names"], example["value"]]
            for old, new in zip(olds, [*example["new_names"], example["new_value"]], strict=True):
                text = text.replace(old, new)
        return f"{text}\n"

    def _between_lines(self, spec: Spec, statements: list[str]) -> list[PromptPart]:
        """Put every statement on its own line."""
        parts: list[PromptPart] = []
        done = 0
        for place, statement in zip(spec["at"], statements, strict=True):
            parts += [*self._lines(place - done), f"{statement}\n"]
            done = place
        # The last line has no line break; the question brings its own.
        if done == spec["size"]:
            return [*parts[:-1], statements[-1]]
        return [*parts, *repeated_line(self._noise, spec["size"] - done)]

    def _lines(self, count: int) -> list[PromptPart]:
        return [*repeated_line(self._noise, count), "\n"] if count else []

    def _inside_lines(self, spec: Spec, statements: list[str]) -> list[PromptPart]:
        """Put the statements between pieces that are joined by spaces, as LCEG does."""
        pieces = [self._noise + "\n"] * spec["size"]
        if self._splits(spec["size"]):
            pieces = [
                piece + "." if piece.strip() else piece
                for line in pieces
                for piece in line.split(".")
            ]
        for done, (place, statement) in enumerate(zip(spec["at"], statements, strict=True)):
            pieces.insert(place + done, statement)
        return [" ".join(pieces).replace(". \n", ".\n")]
