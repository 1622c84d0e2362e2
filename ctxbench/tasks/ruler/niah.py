"""RULER's eight needle subtasks: key-value sentences hidden in noise, essays or other needles.

Reference: github.com/NVIDIA/RULER, scripts/data/synthetic/niah.py.
"""

import itertools
import uuid
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ctxbench.tasks.essays import load_essays
from ctxbench.tasks.ruler import templates
from ctxbench.tasks.ruler.family import Family, Sample, Spec
from ctxbench.tasks.ruler.stream import Stream
from ctxbench.tasks.ruler.words import pairs
from ctxbench.tasks.token_count import PromptPart, TokenCounter, repeated_line, word_run

DEPTHS = [int(depth) for depth in np.round(np.linspace(0, 100, num=40))]  # percent
_FULL, _ATTEMPTS = 0.995, 8  # a strict haystack of needles is redrawn until it is this full
_STEPS = {"essay": 500, "noise": 25, "needle": 25}


def random_value(stream: Stream, kind: str) -> str:
    """Draw a key or value: words, numbers (seven digits) or uuids."""
    if kind == "words":
        return stream.choice(pairs())
    if kind == "numbers":
        return str(stream.randint(10**6, 10**7 - 1))
    return str(uuid.UUID(int=stream.getrandbits(128), version=4))


@dataclass
class Niah(Family):
    """Needles in a haystack.

    Attributes:
        haystack: noise (a repeated line), essay, or needle (other needles). Units: lines or words.
        key: what names a needle: words or uuids.
        value: what it holds: numbers or uuids.
        keys: needles' names in the text.
        values: values per name.
        queries: names asked for.
    """

    haystack: str = "noise"
    key: str = "words"
    value: str = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1
    new_tokens: int = field(init=False, default=128)

    def __post_init__(self):
        self._needle = templates.needle()
        self._noise = templates.noise()
        body, prefix = templates.template("niah").body, templates.template("niah").prefix
        self._kind = self.value
        if self.queries * self.values == 1:
            prefix = prefix.replace("are", "is")
            body = body.replace("Some", "A").replace("are all", "is").replace("are", "is")
            self._kind = self.value[:-1]
        self._attempt = 0
        self._body, self._prefix = body.split("{context}"), prefix

    @cached_property
    def _essays(self):
        return load_essays(self.settings.data_dir)

    @property
    def step(self) -> int:
        """Official: 500 words or 25 lines; 5 lines below 4k."""
        short = self.haystack != "essay" and self.settings.length < 4096
        return 5 if short else _STEPS[self.haystack]

    @property
    def most_units(self) -> int | None:
        """Return the words of the essays, which LCEG does not repeat."""
        return self._essays.source_words if self.haystack == "essay" else None

    def answers(self, sample: Sample) -> str:
        """Return the answers as LCEG's growth counts them."""
        return " ".join(sample.outputs)

    def _draw_needles(self, stream: Stream) -> Spec:
        keys: list[str] = []
        values: list[list[str]] = []
        for _ in range(self.keys):
            keys.append(random_value(stream, self.key))
            values.append([random_value(stream, self.value) for _ in range(self.values)])
        return {"keys": keys, "values": values}

    def _draw_filler(self, stream: Stream, size: int) -> list[str]:
        return [
            self._needle.format(
                type_needle_v=self.value,
                key=random_value(stream, self.key),
                value=random_value(stream, self.value),
            )
            for _ in range(size)
        ]

    def draw(self, stream: Stream, size: int, index: int) -> Spec:
        """Draw in the official order: needles, filler, places, questions."""
        spec: Spec = {**self._draw_needles(stream), "size": size}
        count = self.keys * self.values
        order = list(range(count))
        Stream(self.settings.seed).shuffle(order)
        spec["order"] = order
        if self.haystack == "essay":
            end = self._essays.prefix(size)
            starts = [*self._essays.sentence_starts(0, end), end]
            places = sorted(
                int((len(starts) - 1) * (d / 100)) for d in stream.sample(DEPTHS, count)
            )
            spec |= {"span": [0, end], "at": [starts[place] for place in places]}
        else:
            if self.haystack == "needle":
                spec["filler"] = [self.settings.seed, stream.drawn]
                spec["_filler"] = self._draw_filler(stream, size)
            spec["at"] = sorted(stream.sample(range(size), count), reverse=True)
        spec["asked"] = stream.sample(range(self.keys), self.queries)
        return spec

    def draw_strict(self, stream: Stream, size: int, index: int, depth: float) -> Spec:
        """Draw distinct keys, a random stretch of the essays, and one answer at `depth`."""
        spec = self._draw_needles(stream)
        while len(set(spec["keys"])) < self.keys:
            spec = self._draw_needles(stream)
        spec["size"] = size
        spec["asked"] = stream.sample(range(self.keys), self.queries)
        asked = [k * self.values + v for k in spec["asked"] for v in range(self.values)]
        depths = [stream.random() for _ in range(self.keys * self.values)]
        depths[stream.choice(asked)] = depth
        if self.haystack == "essay":
            spec["span"] = span = self._random_span(stream, size)
            borders = np.array([*self._essays.sentence_starts(*span), span[1]])
            wanted = span[0] + np.array(depths) * size
            places = [int(borders[np.abs(borders - place).argmin()]) for place in wanted]
        else:
            places = [int(d * (size + 1)) for d in depths]
            if self.haystack == "needle":
                spec["filler"] = [f"{self.own_seed(index)}/{self._attempt}", 0]
                spec["_filler"] = self._redraw_filler(spec)
        # Lines are inserted from the last to the first, essays cut from the first to the last.
        order = sorted(
            range(len(places)), key=lambda n: depths[n], reverse=self.haystack != "essay"
        )
        return spec | {"order": order, "at": [places[n] for n in order]}

    def fill(
        self, counter: TokenCounter, index: int, depth: float, guess: int
    ) -> tuple[Spec, Sample, int]:
        """Fill a sample; where one more line is too long, try other lines and keep the fullest."""
        best = None
        for attempt in range(_ATTEMPTS if self.haystack == "needle" else 1):
            self._attempt = attempt
            sample = super().fill(counter, index, depth, guess)
            best = max(best or sample, sample, key=lambda made: made[2])
            if best[2] >= _FULL * self.settings.length:
                break
        assert best is not None
        return best

    def _random_span(self, stream: Stream, size: int) -> list[int]:
        """Return a stretch of the essays that begins with a sentence."""
        room = self._essays.prefix(self._essays.source_words) - self.settings.length
        start = stream.choice(self._essays.sentence_starts(0, max(room, 1)))
        return [start, start + size]

    def sample(self, spec: Spec) -> Sample:
        """Make the prompt; where the answer lies takes a tokenizer, see `depth`."""
        needles = [
            self._needle.format(type_needle_v=self.value, key=key, value=value)
            for key, values in zip(spec["keys"], spec["values"], strict=True)
            for value in values
        ]
        needles = [needles[n] for n in spec["order"]]
        asked = [spec["keys"][k] for k in spec["asked"]]
        query = ", ".join(asked[:-1]) + ", and " + asked[-1] if len(asked) > 1 else asked[0]
        texts = {"type_needle_v": self._kind, "query": query}
        head, tail = (text.format(**texts) for text in self._body)
        return Sample(
            parts=[head, *self._context(spec, needles), tail],
            prefix=self._prefix.format(**texts),
            outputs=[value for k in spec["asked"] for value in spec["values"][k]],
        )

    def _context(self, spec: Spec, needles: list[str]) -> list[PromptPart]:
        if self.haystack == "essay":
            return self._essay_context(spec, needles)
        if self.haystack == "needle":
            lines = list(spec.get("_filler") or self._redraw_filler(spec))
            for place, needle in zip(spec["at"], needles, strict=True):
                lines.insert(place, needle)
            return ["\n".join(lines)]
        parts, below = [], spec["size"]
        for place, needle in zip(spec["at"], needles, strict=True):
            lines = repeated_line(self._noise, below - place)
            parts = ["\n", needle, *(["\n"] if lines else []), *lines, *parts]
            below = place
        lines = repeated_line(self._noise, below)
        return [*lines, *(parts if lines else parts[1:])]

    def _redraw_filler(self, spec: Spec) -> list[str]:
        return self._draw_filler(Stream(*spec["filler"]), spec["size"])

    def _essay_context(self, spec: Spec, needles: list[str]) -> list[PromptPart]:
        start, end = spec["span"]
        borders = [start, *spec["at"], end]
        words = self._essays.words_to(end)
        runs = [word_run(words, a, b) for a, b in itertools.pairwise(borders)]
        parts = list(runs[0])
        for needle, run in zip(needles, runs[1:], strict=True):
            # The official join leaves a space beside an empty run; ours does not.
            if self.settings.fidelity == "strict":
                parts += [" "] * bool(parts) + [needle] + [" "] * (run != [""]) + run
                parts = [part for part in parts if part]
            else:
                parts += [" ", needle, " ", *run]
        return parts

    def depth(self, counter: TokenCounter, sample: Sample, tokens: int) -> float:
        """Return the share of the prompt's tokens that come before the first answer."""
        return self.answer_position(counter, sample) / (tokens - self.new_tokens)

    def answer_position(self, counter: TokenCounter, sample: Sample) -> int:
        """Count the tokens before the first answer, as the official `token_position_answer`."""
        head = self.settings.chat[0]
        for number, part in enumerate(sample.parts):
            if isinstance(part, str) and sample.outputs[0] in part:
                before = part[: part.index(sample.outputs[0])]
                return counter.count([head, *sample.parts[:number], before])
        raise AssertionError("a needle is always in its prompt")
