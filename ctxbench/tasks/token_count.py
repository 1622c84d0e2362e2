"""How many tokens a prompt has, without tokenizing it again and again.

Benchmarks of an exact length try many prompts that differ in a few words. Where it is proven for a
tokenizer (`additivity`) the tokens of a prompt are the sum of its units' tokens, each as it is in
the middle of a text: every distinct unit is tokenized once. Elsewhere prompts are rendered and
tokenized whole: slower, always right.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import numpy as np

from ctxbench.tasks.additivity import COMPOUND, CUT, INNER_CUT, additivity
from ctxbench.tasks.tokenizer import count_tokens, plain_backend

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class CountedText:
    """A part of a prompt, from cut to cut, whose tokens can be summed without its text.

    Attributes:
        text: renders it; the text begins with a space after a visible character, and a space
            follows it.
        tokens: sums its tokens with the `TokenCounter` it is given.
    """

    text: Callable[[], str]
    tokens: Callable[["TokenCounter"], int]


PromptPart = str | CountedText


def render(parts: Iterable[PromptPart]) -> str:
    """Return the text of a prompt made of parts."""
    return "".join(part if isinstance(part, str) else part.text() for part in parts)


def word_run(words: Sequence[str], start: int, end: int) -> list[PromptPart]:
    """Return the parts of `" ".join(words[start:end])`, for a fixed list of words."""
    if end - start < 4:
        return [" ".join(words[start:end])]
    inside = CountedText(
        text=lambda: " " + " ".join(words[start + 1 : end - 1]),
        tokens=lambda counter: counter.between(words, start + 1, end - 1),
    )
    return [words[start], inside, f" {words[end - 1]}"]


def repeated_line(line: str, count: int) -> list[PromptPart]:
    """Return the parts of a line of several words that stands `count` times below itself."""
    if count < 2:
        return [line] * count
    first, rest = line.split(" ", 1)
    once = f" {rest}\n{first}"
    again = CountedText(
        text=lambda: once * (count - 1),
        tokens=lambda counter: counter.inside(once) * (count - 1),
    )
    return [first, again, f" {rest}"]


# A space that is no cut, so that splitting at every space would be wrong.
_NO_CUT = re.compile(r"\A |[\s▁] ")


def units(text: str) -> list[str]:
    """Split a text at its cuts; every unit but the first has lost the space it begins with."""
    return CUT.split(text) if _NO_CUT.search(text) else text.split(" ")


class _Joined(Exception):
    """A unit holds an added token that changes how the text beside it is read."""


class TokenCounter:
    """Counts the tokens of prompts under one tokenizer.

    Attributes:
        whole: why prompts are tokenized whole; None where sums are proven.

    Args:
        tokenizer: a `transformers` tokenizer.
        special_tokens: also count what the tokenizer adds around a text (`<s>` and the like).
        additive: sum over units where it is proven. `False` tokenizes whole prompts.
    """

    _CACHE = 1 << 16  # distinct units remembered; random numbers would fill the memory otherwise

    def __init__(self, tokenizer, special_tokens: bool = False, additive: bool = True):
        self.tokenizer = tokenizer
        self.special_tokens = special_tokens
        self._proven = additivity(tokenizer)
        self.whole = self._proven.why_not if additive else "that was asked for"
        self._cost: dict[str, int] = {}
        self._heads: dict[str, int] = {}
        self._tails: dict[str, int] = {}
        self._sums: dict[int, tuple[Sequence[str], np.ndarray]] = {}
        self._texts: dict[str, int] = {}

    @property
    def how(self) -> str:
        """Say how prompts are counted, and why so."""
        if self.whole is None:
            return "summed over words, which is proven exact for this tokenizer"
        return f"every prompt is tokenized whole, which takes longer, because {self.whole}"

    def exact(self, text: str) -> int:
        """Count the tokens of a text by tokenizing it."""
        return count_tokens(self.tokenizer, text, self.special_tokens)

    def count(self, parts: Sequence[PromptPart]) -> int:
        """Count the tokens of a prompt."""
        total = self._unless_joined(lambda: self._sum(parts))
        return self.exact(render(parts)) if total is None else total

    def _unless_joined(self, summed: Callable[[], T]) -> T | None:
        """Return a sum; None, now and for ever, once there is a text that cannot be summed."""
        if self.whole is None:
            try:
                return summed()
            except _Joined:
                self.whole = "they hold an added token that changes how the text beside it is read"
        return None

    def _sum(self, parts: Sequence[PromptPart]) -> int:
        # Text between two counted ones is counted together; only the very first unit starts a text.
        total, text, start = self._added, "", True
        for part in parts:
            if isinstance(part, str):
                text += part
                continue
            total += self._text(text, start) + part.tokens(self)
            text, start = "", False
        return total + self._text(text, start)

    def costs(self, pieces: Sequence[str]) -> list[int]:
        """Return the tokens of each unit (without its first space) as it is inside a text."""
        cost = self._cost
        try:  # mostly all are known
            return list(map(cost.__getitem__, pieces))
        except KeyError:
            pass
        if len(cost) > self._CACHE:
            cost.clear()
        missing = [piece for piece in set(pieces) if piece not in cost]
        compounds = []
        if self._proven.inner_cuts:
            compounds = [piece for piece in missing if "-" in piece and COMPOUND.fullmatch(piece)]
        self._learn(cost, list(set(missing).difference(compounds)))
        if compounds:
            split = [INNER_CUT.split(piece) for piece in compounds]
            self._learn(self._heads, [found[0] for found in split])
            self._learn(self._tails, [t for found in split for t in found[1:]], _before_inner_cut)
            heads, tails = self._heads, self._tails
            for piece, found in zip(compounds, split, strict=True):
                cost[piece] = heads[found[0]] + sum([tails[tail] for tail in found[1:]])
        return list(map(cost.__getitem__, pieces))

    def _learn(
        self,
        known: dict[str, int],
        pieces: list[str],
        anchor: Callable[[str], str] = lambda piece: "a ",
    ) -> None:
        """Measure the pieces that are not known, each behind an anchor that it is cut from."""
        if len(known) > self._CACHE:
            known.clear()
        missing = [piece for piece in set(pieces) if piece not in known]
        anchors = [anchor(piece) for piece in missing]
        measured = self._measure([a + piece for a, piece in zip(anchors, missing, strict=True)])
        for piece, before, tokens in zip(missing, anchors, measured, strict=True):
            known[piece] = tokens - self._anchors[before.rstrip()]

    def between(self, words: Sequence[str], start: int, end: int) -> int:
        """Count the tokens of `words[start:end]` (units) of a list that only ever grows."""
        known = self._sums.get(id(words))
        if known is None or known[0] is not words or len(known[1]) <= end:
            size = min(len(words), max(end, 1 << 16) * 2)
            sums = np.concatenate([[0], np.cumsum(self.costs(words[:size]), dtype=np.int64)])
            known = self._sums[id(words)] = (words, sums)
        return int(known[1][end] - known[1][start])

    def inside(self, text: str) -> int:
        """Count the tokens of a text from cut to cut; for texts that come again."""
        if text not in self._texts:
            self._texts[text] = self._text(text, start=False)
        return self._texts[text]

    def behind_a_word(self, text: str) -> int:
        """Count the tokens a text adds behind a word and a space; for texts that come again."""
        total = self._unless_joined(lambda: self.inside(f" {text}"))
        if total is None:
            known = self._texts
            total = known[text] = known.get(text) or self.exact(f"a {text}") - self.exact("a")
        return total

    def offsets(self, words: Sequence[str], borders: Sequence[int]) -> list[int]:
        """Count the tokens from the first border to each, of words in the middle of a text."""
        found = self._unless_joined(
            lambda: [self.between(words, borders[0], border) for border in borders]
        )
        if found is None:
            pieces = (" ".join(words[a:b]) for a, b in pairwise(borders))
            found = list(accumulate(map(self.behind_a_word, pieces), initial=0))
        return found

    def _text(self, text: str, start: bool) -> int:
        """Count a text that starts the prompt or begins at a cut, and ends at one."""
        if not text:
            return 0
        first, *rest = units(text if start else f"a{text}")
        return (self._measure([first])[0] if start else 0) + sum(self.costs(rest))

    def _measure(self, texts: list[str]) -> list[int]:
        encodings = plain_backend(self.tokenizer).encode_batch_fast(texts, add_special_tokens=False)
        joining = self._proven.joining
        if joining and not all(joining.isdisjoint(encoding.ids) for encoding in encodings):
            raise _Joined
        return [len(encoding) for encoding in encodings]

    @cached_property
    def _anchors(self) -> dict[str, int]:
        """Tokens of what stands before a piece while it is measured, with all that begins a text.

        They need not be equal: Llama-2's dummy space is one token with a letter, two with a digit.
        """
        return dict(zip("a1", self._measure(["a", "1"]), strict=True))

    @cached_property
    def _added(self) -> int:
        return self.exact("a") - count_tokens(self.tokenizer, "a")


Rows = list[dict[str, Any]]


def make_recounted(
    make: Callable[[TokenCounter], tuple[Rows, dict[str, Any]]],
    recount: Callable[[TokenCounter, dict[str, Any]], int],
    counter: TokenCounter,
) -> tuple[Rows, dict[str, Any]]:
    """Make samples, and tokenize the fullest of them whole, though sums are proven exact.

    Were its tokens not those recorded, all samples would be made again by whole prompts.

    Args:
        make: returns rows with their `tokens`, and a report.
        recount: counts the tokens of a row.
        counter: counts while they are made.

    Returns:
        The rows, and the report with how they were `counted`.
    """
    rows, report = make(counter)
    whole = TokenCounter(counter.tokenizer, counter.special_tokens, additive=False)
    fullest = max(rows, key=lambda row: row["tokens"])
    if counter.whole is None and recount(whole, fullest) != fullest["tokens"]:
        whole.whole = "its sums were proven and yet wrong (please report this)"
        logger.warning("Prompt lengths: %s.", whole.how)
        rows, report = make(whole)
        counter = whole
    logger.info("Prompt lengths: %s.", counter.how)
    return rows, report | {"counted": counter.how}


def _before_inner_cut(piece: str) -> str:
    """Return a character that an inner cut can follow before a piece that begins at one."""
    return "1" if piece[0].isalpha() else "a"


def fingerprint(tokenizer) -> str:
    """Return 16 hexadecimal digits that change when the tokenizer's tokens change."""
    plain_backend(tokenizer)  # cutting and padding are no part of it, whoever has set them
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = (
        backend.to_str()
        if backend is not None
        else json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    )
    return hashlib.sha256(rules.encode()).hexdigest()[:16]
