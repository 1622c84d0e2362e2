"""Byte-level BPE by the word: each word of a corpus is merged once and remembered.

A byte-level BPE cuts a text by a regular expression and merges within each piece, so the ids of a
piece are the same wherever it stands. Text repeats its words; looking them up takes half the time
of the `tokenizers` library.

The ids are the library's own, never approximations of them: a piece's come from its model, and a
text is left to the library where anything could differ. That is: a tokenizer of another kind, a
text that may hold one of its special tokens, and a text with a character that the library's
regular expressions and Python's see differently, which is asked about each new character.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

_WORDS = 2**20
"""Remembered at most; then the memory of words begins anew."""
_LONGEST = 64
"""Characters of a word that is worth remembering."""
_GPT2 = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What `ByteLevel` cuts by, as GPT-2 (Radford et al. 2019)."""
_PROBES = ("a{0}1{0}!{0} {0}  {0}\n{0} \n{0}{0}a {0}1", "'{0} '{0}l'l{0}'r{0}'{0}e'v{0}'{0}v {0}s")


class _Words(dict):
    """Word -> ids; a new word is asked for and remembered."""

    def __init__(self, model: Any):
        super().__init__()
        self._model = model
        self._bytes = _printable_bytes()

    def __missing__(self, word: str) -> tuple[int, ...]:
        printed = "".join(map(self._bytes.__getitem__, word.encode()))
        ids = tuple(token.id for token in self._model.tokenize(printed))
        if len(word) <= _LONGEST:
            if len(self) >= _WORDS:
                self.clear()
            self[word] = ids
        return ids


class WordEncoder:
    """Encodes texts as a `tokenizers.Tokenizer` does, special tokens added, faster.

    Attributes:
        vocabulary: number of ids.
    """

    def __init__(self, backend: Any):
        """Prepare to encode.

        Args:
            backend: a `tokenizers.Tokenizer`.
        """
        self._backend = backend
        self.vocabulary = backend.get_vocab_size()
        self._split = _splitter(backend)
        if (around := _around(backend)) is None:
            self._split, around = None, ([], [])
        self._first, self._last = around
        self._words = _Words(backend.model)
        self._known: set[str] = set()
        self._special = [token.content for token in backend.get_added_tokens_decoder().values()]
        self._begins = sorted({content[:2] for content in self._special})

    def encode(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """Return the ids of each text.

        Raises:
            TypeError: a text is no valid Unicode.
        """
        found: list[Any] = [self._by_words(text) for text in texts]
        if rest := [number for number, ids in enumerate(found) if ids is None]:
            encodings = self._backend.encode_batch_fast([texts[n] for n in rest])
            for number, encoding in zip(rest, encodings, strict=True):
                found[number] = encoding.ids
        return found

    def _by_words(self, text: str) -> list[int] | None:
        """Return the ids of a text, None where they must be the library's."""
        if self._split is None or not isinstance(text, str):
            return None
        if not (characters := set(text)) <= self._known and not self._learn(characters):
            return None
        if any(begin in text for begin in self._begins) and any(s in text for s in self._special):
            return None
        words = self._split.findall(text)
        if sum(map(len, words)) != len(text):  # what no alternative matches is a piece too
            return None
        ids = chain.from_iterable(map(self._words.__getitem__, words))
        return [*self._first, *ids, *self._last]

    def _learn(self, characters: set[str]) -> bool:
        """Return whether both regular expressions see these characters alike."""
        assert self._split is not None
        for character in sorted(characters - self._known):
            if "\ud800" <= character <= "\udfff":
                return False
            for probe in _PROBES:
                text = probe.format(character)
                pieces = [text[slice(*span)] for _, span in self._spans(text)]
                if self._split.findall(text) != pieces:
                    return False
            self._known.add(character)
        return True

    def _spans(self, text: str) -> list[tuple[str, tuple[int, int]]]:
        return self._backend.pre_tokenizer.pre_tokenize_str(text)


def _splitter(backend: Any) -> Any:
    """Return the compiled expression of a plain byte-level BPE, None for any other tokenizer."""
    import regex

    about = json.loads(backend.to_str())
    model = about["model"]
    plain = model["type"] == "BPE" and not any(
        model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    )
    if not plain or about["normalizer"] or about["truncation"] or about["padding"]:
        return None
    steps = about["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    if not steps:
        return None
    *splits, last = steps
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        return None
    if not splits:
        return regex.compile(_GPT2) if last["use_regex"] else None
    (split, *more) = splits
    pattern = split.get("pattern", {}).get("Regex")
    isolated = split.get("behavior") == "Isolated" and not split.get("invert")
    if more or last["use_regex"] or split.get("type") != "Split" or not pattern or not isolated:
        return None
    try:
        found = regex.compile(pattern)
    except regex.error:  # the library's expressions have more escapes
        return None
    return None if found.groups else found


def _around(backend: Any) -> tuple[list[int], list[int]] | None:
    """Return the ids that the tokenizer puts before and after a text, None if they are unclear."""
    bare = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a").ids
    for begin in range(len(whole)):
        if bare and whole[begin : begin + len(bare)] == bare:
            return whole[:begin], whole[begin + len(bare) :]
    return None


def _printable_bytes() -> list[str]:
    """Return the character that stands for each byte in a byte-level vocabulary.

    Printable bytes of Latin-1 stand for themselves, the others for what follows U+0100.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
