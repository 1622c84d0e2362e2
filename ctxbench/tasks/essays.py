"""Paul Graham's essays as a haystack: words, sentence borders, any length.

The official RULER haystack joins 218 essays (`PaulGrahamEssays.json`, made by the official
`download_paulgraham_essay.py`, github.com/NVIDIA/RULER), collapses white space, takes the first n
words, splits them into sentences with NLTK's punkt and joins the sentences with spaces. Splitting
is the slow part, so it is done once: the sentences of the first n words are those of the whole
text up to word n, and the tail. Punkt also splits inside a word at a footnote mark
(`good.[2]` becomes `good. [2]`), so a *rendered* word is not always a word of the file.
"""

import bisect
import functools
import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from ctxbench.assets import find_data, require_data

_GET_ESSAYS = (
    "It is the official file of github.com/NVIDIA/RULER, scripts/data/synthetic/json: run "
    "download_paulgraham_essay.py there."
)
_BLOCK = 1 << 15  # words; sentences are split for the first 32k words, then 64k, 128k, ...


class Essays:
    """The haystack.

    Args:
        text: the essays, as in the official file.
        splitter: `text -> [(start, end), ...]`, the character spans of the sentences.

    Attributes:
        words: the rendered words known so far; grows with `prefix`, and starts anew when it does.
        digest: of the text.
    """

    def __init__(self, text: str, splitter):
        self._source = re.sub(r"\s+", " ", text).split(" ")
        self._splitter = splitter
        self._known = 0
        self.words: list[str] = []
        self._starts: list[int] = []
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def source_words(self) -> int:
        """Return how many words the file has, before any repetition."""
        return len(self._source)

    def prefix(self, count: int) -> int:
        """Return how many rendered words the first `count` words of the file make.

        Beyond the end of the file it begins again.
        """
        if count > self._known:
            self._split(count)
        return int(self._rendered[count])

    def sentence_starts(self, end: int) -> list[int]:
        """Return the rendered words before `end` at which a sentence begins."""
        return self._starts[: bisect.bisect_left(self._starts, end)]

    def _split(self, count: int) -> None:
        """Split at least the first `count` words into sentences."""
        size = _BLOCK
        while size < count:
            size *= 2
        size = max(count, len(self._source)) if size > len(self._source) else size
        words = (self._source * -(-size // len(self._source)))[:size]
        text = " ".join(words)
        spans = list(self._splitter(text))
        sentences = [text[start:end].split(" ") for start, end in spans]
        self.words = [word for sentence in sentences for word in sentence]
        sizes = np.cumsum([len(sentence) for sentence in sentences])
        self._starts = [0, *sizes[:-1].tolist()]
        # Character offsets say which rendered words lie before a word of the file; after a word
        # comes a space, but none where a sentence ends inside a word of the file.
        gaps = np.ones(len(self.words), dtype=np.int64)
        begins, ends = np.array(spans).T
        gaps[sizes[:-1] - 1] = begins[1:] - ends[:-1]
        gaps[-1] = 1
        rendered = np.cumsum(gaps + [len(word) for word in self.words]) - gaps
        begin = np.cumsum([0] + [len(word) + 1 for word in words])
        self._rendered = np.searchsorted(rendered, begin, side="left")
        self._known = size


def _punkt(data_dir=None):
    """Return punkt's English `span_tokenize`: local parameters first, else NLTK's own search."""
    from nltk.tokenize import punkt

    folder = find_data(
        "nltk_data/tokenizers/punkt_tab/english", "punkt_tab/english", data_dir=data_dir
    )
    if folder is None:
        try:
            return punkt.PunktTokenizer("english").span_tokenize
        except LookupError as missing:
            raise FileNotFoundError(
                "NLTK's sentence splitter punkt_tab was not found in the data folders nor where "
                "NLTK looks. Run `python -m nltk.downloader punkt_tab`, or put its folder as "
                "nltk_data/tokenizers/punkt_tab/english in a folder that CTXBENCH_DATA names."
            ) from missing
    # Read here, because NLTK refuses files outside of its own search path.
    lines = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in folder.iterdir()}
    parameters = punkt.PunktParameters()
    parameters.collocations = {tuple(line.split("\t")) for line in lines["collocations"]}
    parameters.sent_starters = set(lines["sent_starters"])
    parameters.abbrev_types = set(lines["abbrev_types"])
    for line in lines["ortho_context"]:
        word, context = line.split("\t")
        parameters.ortho_context[word] = int(context)
    return punkt.PunktSentenceTokenizer(parameters).span_tokenize


@functools.lru_cache(maxsize=2)
def _load(path: Path, data_dir: str | None) -> Essays:
    try:
        text = json.loads(path.read_text(encoding="utf-8"))["text"]
    except (ValueError, KeyError, TypeError) as damage:
        raise ValueError(
            f"{path} is not the essays file: expected JSON with a key 'text' ({damage}). "
            + _GET_ESSAYS
        ) from damage
    late = SimpleNamespace(split=None)  # punkt takes a second to import: only when it is needed

    def splitter(text: str):
        late.split = late.split or _punkt(data_dir)
        return late.split(text)

    return Essays(text, splitter)


def load_essays(data_dir: str | None = None) -> Essays:
    """Load the essays from a local `PaulGrahamEssays.json`.

    Raises:
        FileNotFoundError: the file, or later punkt, is not there.
        ValueError: the file is damaged.
    """
    path = require_data("PaulGrahamEssays.json", get=_GET_ESSAYS, data_dir=data_dir)
    return _load(path, str(data_dir) if data_dir else None)
