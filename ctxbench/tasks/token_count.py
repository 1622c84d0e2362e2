"""How many tokens a prompt has, without tokenizing it again and again.

Benchmarks of an exact length try many prompts that differ in a few words. For most tokenizers the
count is a sum over parts that can be known beforehand:

A *cut* is a place before a space that follows a character which is not white space. A BPE
tokenizer can only build what is in its vocabulary, and its pre-tokenizer (if any) works left to
right on runs of characters. When no entry of the vocabulary has a space after a non-space
character, and the pre-tokenizer is one whose chunks never run over a cut, no token spans a cut,
so the tokens of a text are the tokens of its *units* (the pieces between cuts), each as it is in
the middle of a text. `TokenCounter` checks exactly this, counts every distinct unit once, and sums.
Where the property is not proven for a tokenizer, prompts are rendered and tokenized whole: slower,
always right.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ctxbench.core.compat.tokenizers import rules_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stretch:
    """A stretch of a prompt, from cut to cut, whose tokens can be summed without its text.

    Attributes:
        text: renders it; the text begins with a space and is followed by one.
        tokens: sums its tokens with the `TokenCounter` it is given.
    """

    text: Callable[[], str]
    tokens: Callable[["TokenCounter"], int]


Part = str | Stretch


def render(parts: Iterable[Part]) -> str:
    """Return the text of a prompt made of parts."""
    return "".join(part if isinstance(part, str) else part.text() for part in parts)


def word_run(words: Sequence[str], start: int, end: int) -> list[Part]:
    """Return the parts of `" ".join(words[start:end])`, for a fixed list of words."""
    if end - start < 4:
        return [" ".join(words[start:end])]
    inside = Stretch(
        text=lambda: " " + " ".join(words[start + 1 : end - 1]),
        tokens=lambda counter: counter.between(words, start + 1, end - 1),
    )
    return [words[start], inside, f" {words[end - 1]}"]


def repeated_line(line: str, count: int) -> list[Part]:
    """Return the parts of a line of several words that stands `count` times below itself."""
    if count < 2:
        return [line] * count
    first, rest = line.split(" ", 1)
    once = f" {rest}\n{first}"
    again = Stretch(
        text=lambda: once * (count - 1),
        tokens=lambda counter: counter.inside(once) * (count - 1),
    )
    return [first, again, f" {rest}"]


# A space before which no token can begin earlier: the cut.
_CUT = re.compile(r"(?<=\S) ")
# White space before a space: such a space is no cut, so splitting at every space would be wrong.
_NO_CUT = re.compile(r"\s ")


def units(text: str) -> list[str]:
    """Split a text at its cuts; every unit but the first has lost the space it begins with."""
    return _CUT.split(text) if _NO_CUT.search(text) else text.split(" ")


# Further cuts inside a unit with a hyphen: before the hyphen, and between letters and digits. And a
# vocabulary entry that spans one.
_INNER_CUT = re.compile(r"(?<=[a-z0-9])(?=-[a-z0-9])|(?<=[a-z])(?=[0-9])|(?<=[0-9])(?=[a-z])")
_OVER_AN_INNER_CUT = re.compile(r"[a-z0-9]-|[a-z][0-9]|[0-9][a-z]")

# Pre-tokenizers whose chunks never run over a cut: in every alternative white space is either an
# optional first character or a run of white space only, and no look-ahead or look-behind reaches
# over the space. (The byte-level default below is GPT-2's.)
_GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_KNOWN_PATTERNS = {
    _GPT2,
    _CL100K % r"\p{N}{1,3}",  # GPT-4, Llama 3
    _CL100K % r"\p{N}",  # Qwen 2 and 3
    # the bundled mini model
    r" ?\d{1,2}| ?\p{L}+|[ ]?[^\s\p{L}\d]+|\n+[ ]*|[ ]+(?!\S)|\s+",
}


# A vocabulary entry with a space after a character that is not white space, in the three ways
# vocabularies write a space (the byte-level alphabet also writes other white space as letters).
_OVER_A_CUT = re.compile(r"[^Ġ▁ĊĉčċČ\s][Ġ▁ ]")


def _behind_other_kind(piece: str) -> str:
    """Put a piece that begins at an inner cut behind a character such a cut can follow."""
    return f"1{piece}" if piece[0].isalpha() else f"a{piece}"


def _flat(component: dict | None, key: str) -> list[dict]:
    """List the members of a `Sequence` normalizer or pre-tokenizer, or the one there is."""
    if component is None:
        return []
    if component["type"] == "Sequence":
        return [member for inner in component[key] for member in _flat(inner, key)]
    return [component]


def _keeps_cuts(component: dict) -> bool:
    """Say whether a pre-tokenizer's chunks are known never to run over a cut."""
    if component["type"] == "Split":
        pattern = component["pattern"].get("Regex", "")
        return pattern in _KNOWN_PATTERNS and not component["invert"]
    return component["type"] in ("ByteLevel", "Metaspace", "Digits")


def _keeps_spaces(component: dict) -> bool:
    """Say whether a normalizer treats the two sides of a cut alone."""
    if component["type"] == "Replace":
        return component["pattern"].get("String") == " " and component["content"] == "▁"
    # Canonical composition never reaches over a space.
    return component["type"] in ("NFC", "Prepend")


def why_not_additive(tokenizer) -> str | None:
    """Return why token counts of this tokenizer cannot be summed over units, None if they can."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return "it has no `tokenizers` backend to read its rules from"
    rules = {
        name: rules_of(part)
        for name, part in (("norm", backend.normalizer), ("pre", backend.pre_tokenizer))
    }
    model = type(backend.model).__name__
    if model != "BPE":
        return f"its model is {model}, and the proof is for BPE"
    if getattr(backend.model, "dropout", None):
        return "it drops merges at random"
    for component in _flat(rules["norm"], "normalizers"):
        if not _keeps_spaces(component):
            return f"its normalizer {component['type']} is not known to work locally"
    for component in _flat(rules["pre"], "pretokenizers"):
        if not _keeps_cuts(component):
            return f"its pre-tokenizer {component['type']} is not known to keep cuts"
    for token in tokenizer.added_tokens_decoder.values():
        if token.lstrip or token.rstrip or _CUT.search(token.content):
            return f"its added token {token.content!r} takes in the space beside it"
    for piece in backend.get_vocab(with_added_tokens=False):
        if _OVER_A_CUT.search(piece):
            return f"its vocabulary has {piece!r}, which spans a cut"
    return None


class TokenCounter:
    """Counts the tokens of prompts under one tokenizer.

    Args:
        tokenizer: a `transformers` tokenizer.
        special_tokens: also count what the tokenizer adds around a text (`<s>` and the like).
        additive: sum over units; by default where it is proven. `False` tokenizes whole prompts.
    """

    _CACHE = 1 << 16  # distinct units remembered; random numbers would fill the memory otherwise

    def __init__(self, tokenizer, special_tokens: bool = False, additive: bool | None = None):
        self.tokenizer = tokenizer
        self.special_tokens = special_tokens
        reason = why_not_additive(tokenizer) if additive is None else None
        self.additive = reason is None if additive is None else additive
        if reason:
            logger.info("Token counts by whole prompts for this tokenizer: %s.", reason)
        self._cost: dict[str, int] = {}
        self._heads: dict[str, int] = {}
        self._tails: dict[str, int] = {}
        self._sums: dict[int, tuple[Sequence[str], np.ndarray]] = {}
        self._texts: dict[str, int] = {}

    def exact(self, text: str) -> int:
        """Count the tokens of a text by tokenizing it."""
        return len(self.tokenizer(text, add_special_tokens=self.special_tokens).input_ids)

    def count(self, parts: Sequence[Part]) -> int:
        """Count the tokens of a prompt."""
        if not self.additive:
            return self.exact(render(parts))
        # Text between two stretches is counted together; only the very first unit starts a text.
        total, text, start = self._added, "", True
        for part in parts:
            if isinstance(part, str):
                text += part
                continue
            total += self._text(text, start) + part.tokens(self)
            text, start = "", False
        return total + self._text(text, start)

    def middle(self, pieces: Iterable[str]) -> int:
        """Count the tokens of units (without their first space) as they are inside a text."""
        return sum(self.costs(pieces if isinstance(pieces, list) else list(pieces)))

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
        whole = [piece for piece in missing if "-" not in piece] if self._inner_cuts else missing
        self._learn(cost, whole, "a ".__add__)
        if len(whole) < len(missing):
            compounds = [piece for piece in missing if "-" in piece]
            split = [_INNER_CUT.split(piece) for piece in compounds]
            self._learn(self._heads, [found[0] for found in split], "a ".__add__)
            self._learn(self._tails, [t for found in split for t in found[1:]], _behind_other_kind)
            heads, tails = self._heads, self._tails
            for piece, found in zip(compounds, split, strict=True):
                cost[piece] = heads[found[0]] + sum([tails[tail] for tail in found[1:]])
        return list(map(cost.__getitem__, pieces))

    def _learn(
        self, known: dict[str, int], pieces: list[str], anchored: Callable[[str], str]
    ) -> None:
        """Measure the pieces that are not known, each behind an anchor."""
        if len(known) > self._CACHE:
            known.clear()
        missing = [piece for piece in set(pieces) if piece not in known]
        measured = self._measure([anchored(piece) for piece in missing])
        known.update((piece, n - self._anchor) for piece, n in zip(missing, measured, strict=True))

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

    def rough(self, text: str) -> int:
        """Count about the tokens a text adds to others; for texts that come again."""
        if text not in self._texts:
            self._texts[text] = self._text(f" {text}", False) if self.additive else self.exact(text)
        return self._texts[text]

    def _text(self, text: str, start: bool) -> int:
        """Count a text that starts the prompt or begins at a cut, and ends at one."""
        if not text:
            return 0
        first, *rest = units(text if start else f"a{text}")
        return (self._measure([first])[0] if start else 0) + self.middle(rest)

    def _measure(self, texts: list[str]) -> list[int]:
        backend = self.tokenizer.backend_tokenizer
        return [len(found) for found in backend.encode_batch_fast(texts, add_special_tokens=False)]

    @cached_property
    def _inner_cuts(self) -> bool:
        """Say whether units may be cut inside too, so that fewer and shorter pieces are new.

        Every known pre-tokenizer ends a chunk there, whatever stands before; without one the
        vocabulary decides.
        """
        vocabulary = self.tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
        return not any(_OVER_AN_INNER_CUT.search(piece) for piece in vocabulary)

    @cached_property
    def _anchor(self) -> int:
        """Tokens of what stands before a piece while it is measured: one, or cuts are no use."""
        letter, digit = self._measure(["a", "1"])
        assert letter == digit
        return letter

    @cached_property
    def _added(self) -> int:
        return self.exact("a") - len(self.tokenizer("a", add_special_tokens=False).input_ids)


def fingerprint(tokenizer) -> str:
    """Return 16 hexadecimal digits that change when the tokenizer's tokens change."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = (
        backend.to_str()
        if backend is not None
        else json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    )
    return hashlib.sha256(rules.encode()).hexdigest()[:16]
