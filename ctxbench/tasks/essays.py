"""Paul Graham's essays as a haystack: words, sentence borders, any length.

The official RULER haystack joins 218 essays (`PaulGrahamEssays.json`, made by the official
`download_paulgraham_essay.py`, github.com/NVIDIA/RULER), collapses white space, takes the first n
words, splits them into sentences with NLTK's punkt and joins the sentences with spaces. Splitting
is the slow part, so it is done once: the sentences of the first n words are those of the whole
text up to word n, and the tail. Punkt also splits inside a word at a footnote mark
(`good.[2]` becomes `good. [2]`), so a *rendered* word is not always a word of the file.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ctxbench.core.assets import require_data
from ctxbench.core.text_files import check_text
from ctxbench.tasks.sentences import sentence_spans

_GET_ESSAYS = (
    "Run `ctxbench data fetch ruler`. It is what download_paulgraham_essay.py of "
    "github.com/NVIDIA/RULER writes."
)


class Essays:
    """The haystack.

    Args:
        text: the essays, as in the official file.
        spans: finds the character spans of a text's sentences: `[sentences, 2]`.

    Attributes:
        text: as it was given.
        digest: of the text.
    """

    def __init__(self, text: str, spans: Callable[[str], np.ndarray]):
        self.text = text
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._source = re.sub(r"\s+", " ", text).split(" ")
        self._spans = spans
        self._words: list[str] = []
        self._starts = np.array([], dtype=np.int64)
        self._rendered = np.array([0])

    @property
    def source_words(self) -> int:
        """Return how many words the file has."""
        return len(self._source)

    def prefix(self, count: int) -> int:
        """Return how many rendered words the first `count` words of the file make.

        Beyond its end the file begins again.
        """
        if count >= len(self._rendered):
            self._split(-(-count // len(self._source)))
        return int(self._rendered[count])

    def words_to(self, end: int) -> list[str]:
        """Return the rendered words, `end` of them or more; the same list while it suffices."""
        while len(self._words) < end:
            self._split(1 + len(self._rendered) // len(self._source))
        return self._words

    def sentence_starts(self, start: int, end: int) -> list[int]:
        """Return the rendered words from `start` to before `end` at which a sentence begins."""
        self.words_to(end)
        return self._starts[slice(*np.searchsorted(self._starts, [start, end]))].tolist()

    def _split(self, copies: int) -> None:
        """Split the file, as often as it stands behind itself, into sentences."""
        words = self._source * copies
        text = " ".join(words)
        begins, ends = self._spans(text).T
        once: dict[str, str] = {}  # equal words share their memory
        sentences = [text[a:b].split(" ") for a, b in zip(begins, ends, strict=True)]
        self._words = [once.setdefault(word, word) for found in sentences for word in found]
        sizes = np.cumsum([len(found) for found in sentences])
        self._starts = np.concatenate([[0], sizes[:-1]])
        # Character offsets say which rendered words lie before a word of the file; after a word
        # comes a space, but none where a sentence ends inside a word of the file.
        gaps = np.ones(len(self._words), dtype=np.int64)
        gaps[sizes[:-1] - 1] = begins[1:] - ends[:-1]
        rendered = np.cumsum(gaps + [len(word) for word in self._words])
        starts = np.concatenate([[0], rendered[:-1]]) + begins[0]
        self._rendered = np.searchsorted(
            starts, np.cumsum([0] + [len(word) + 1 for word in words]), side="left"
        )


@functools.lru_cache(maxsize=2)
def _load(path: Path, data_dir: str | None) -> Essays:
    try:
        text = json.loads(path.read_text(encoding="utf-8"))["text"]
        if not check_text(text, "it", "").strip():
            raise ValueError("it is empty")
    except (ValueError, KeyError, TypeError) as damage:
        raise ValueError(
            f"{path} is not the essays file: expected JSON with a key 'text' "
            f"({type(damage).__name__}: {damage}). {_GET_ESSAYS}"
        ) from damage
    return Essays(text, functools.partial(sentence_spans, data_dir=data_dir))


def load_essays(data_dir: str | None = None) -> Essays:
    """Load the essays from a local `PaulGrahamEssays.json`.

    Raises:
        FileNotFoundError: the file is not there (or, once sentences are asked for, punkt is not).
        ValueError: the file is damaged.
    """
    path = require_data("PaulGrahamEssays.json", get=_GET_ESSAYS, data_dir=data_dir)
    return _load(path, str(data_dir) if data_dir else None)
