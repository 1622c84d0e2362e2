"""RULER's word lists: the six million adjective-noun pairs, and the words of CWE."""

import bisect
import functools
import hashlib
import itertools
import json
import random
from pathlib import Path

from ctxbench.core.assets import require_data
from ctxbench.core.compat.wonderwords import LISTS

_GET_LIST = (
    "Beyond wonderwords' own words, common words extraction takes them from the official "
    "english_words.json (github.com/NVIDIA/RULER, scripts/data/synthetic/json, a Git LFS file). "
    "Run `ctxbench data fetch ruler`; fidelity 'strict' needs no such file."
)


@functools.lru_cache
def wordlist(name: str) -> list[str]:
    """Return a word list of the wonderwords package: noun, adjective or verb."""
    return [line.rstrip() for line in LISTS[name].read().splitlines()]


class Pairs:
    """`sorted({f"{adjective}-{noun}" ...})`, addressable without building it.

    Pairs of one adjective are neighbours in the sorted list, unless one adjective's beginning of a
    pair is a beginning of another's ("well-" and "well-known-"): those few are merged for real.
    """

    def __init__(self, adjectives: list[str], nouns: list[str]):
        self._nouns = sorted(set(nouns))
        self._groups: list[list[str]] = []  # of beginnings, in order
        for beginning in sorted({f"{adjective}-" for adjective in adjectives}):
            if self._groups and beginning.startswith(self._groups[-1][0]):
                self._groups[-1].append(beginning)
            else:
                self._groups.append([beginning])
        sizes = (
            len(self._nouns) if len(group) == 1 else len(self._merged(k))
            for k, group in enumerate(self._groups)
        )
        self._ends = list(itertools.accumulate(sizes))

    @functools.lru_cache(maxsize=256)  # noqa: B019  (one object per process)
    def _merged(self, group: int) -> list[str]:
        return sorted({b + noun for b in self._groups[group] for noun in self._nouns})

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):  # also ends an iteration
            raise IndexError(index)
        group = bisect.bisect_right(self._ends, index)
        index -= self._ends[group - 1] if group else 0
        beginnings = self._groups[group]
        if len(beginnings) == 1:
            return beginnings[0] + self._nouns[index]
        return self._merged(group)[index]


@functools.lru_cache
def pairs() -> Pairs:
    """Return the official list of 6,171,620 keys."""
    return Pairs(wordlist("adjective"), wordlist("noun"))


@functools.lru_cache
def common_words(seed: int) -> list[str]:
    """Return CWE's 8,166 words in the official order for a seed."""
    words = sorted({*wordlist("noun"), *wordlist("adjective"), *wordlist("verb")})
    random.Random(seed).shuffle(words)
    return words


def english_words(data_dir: str | None = None) -> list[str]:
    """Return the official list that CWE takes when it needs more words than wonderwords has.

    Raises:
        FileNotFoundError: it is not among the local data.
        ValueError: it is damaged.
    """
    return _english_words(require_data("english_words.json", get=_GET_LIST, data_dir=data_dir))


@functools.lru_cache(maxsize=2)
def _english_words(path: Path) -> list[str]:
    try:
        return list(json.loads(path.read_text(encoding="utf-8")).values())
    except (ValueError, AttributeError) as damage:
        raise ValueError(
            f"{path} is not the official word list ({damage}). " + _GET_LIST
        ) from damage


@functools.lru_cache
def digest() -> str:
    """Return 16 hexadecimal digits over the installed word lists."""
    text = "\n".join(w for name in ("noun", "adjective", "verb") for w in wordlist(name))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
