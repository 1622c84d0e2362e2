"""Passkey retrieval for lm-eval (Mohtashami and Jaggi 2023, https://arxiv.org/abs/2305.16300)."""

import hashlib
import random
import re
from collections.abc import Callable
from typing import Any

from ctxbench.tasks import needle_grid
from ctxbench.tasks.needle_grid import Frame, Grid, Needle
from ctxbench.tasks.specs import SpecFile

# epfml/landmark-attention, llama/run_test.py:96-134
_TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
_GARBAGE = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
)
_KEYS = (1, 50000)


class Garbage:
    """Five sentences over and over."""

    digest = hashlib.sha256(_GARBAGE.encode()).hexdigest()[:16]

    def __init__(self):
        self._once = _GARBAGE.split(" ")
        self._starts = [0] + [i + 1 for i, w in enumerate(self._once[:-1]) if w.endswith(".")]
        self._words: list[str] = []

    def words_to(self, end: int) -> list[str]:
        """Return `end` words or more; a list that only grows."""
        missing = end - len(self._words)
        self._words += self._once * -(-missing // len(self._once))
        return self._words

    def sentence_starts(self, start: int, end: int) -> list[int]:
        """Return the words from `start` to before `end` at which a sentence begins."""
        rounds = range(0, end, len(self._once))
        starts = (begin + offset for begin in rounds for offset in self._starts)
        return [place for place in starts if start <= place < end]


_GARBAGE_HAYSTACK = Garbage()


def _haystack(data_dir: str | None) -> Garbage:
    del data_dir
    return _GARBAGE_HAYSTACK


def _draw(rng: random.Random, run: int, haystack: Garbage) -> tuple[Needle, int]:
    del run, haystack
    key = str(rng.randint(*_KEYS))
    text = f"The pass key is {key}. Remember it. {key} is the pass key."
    return Needle(text, "What is the pass key? The pass key is", key, "passkey"), 0


GRID = Grid("passkey", Frame(f"{_TASK}\n", "\n{question}", "\n", 10), _haystack, _draw)


def load(ctx_length: int, **metadata: Any) -> dict[str, Any]:
    """Return one task's samples; see `needle_grid.load`."""
    return needle_grid.load(GRID, ctx_length, metadata, needle_grid.settings_of(GRID, metadata))


def doc_to_text(doc: dict) -> str:
    """Return a sample's prompt."""
    return needle_grid.prompt(GRID, doc)


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Score one sample: the first number of the response is the key."""
    number = re.search(r"\d+", results[0])
    score = float(number is not None and number.group() == doc["answer"])
    return {"score": score, "score_low": score, "score_high": score}


# ------------------------------------------------------------- `ctxbench data`

report_skips = needle_grid.report_skips


def leaf_name(length: int) -> str:
    """Return the name of a task."""
    return GRID.leaf(length)


def get_specs(
    length: int, metadata: dict[str, Any], progress: Callable[[], object] = lambda: None
) -> SpecFile:
    """Return the specs of one task, from the cache or made now."""
    settings = needle_grid.settings_of(GRID, metadata)
    return needle_grid.get_specs(GRID, length, metadata, settings, progress)


def recount(found: SpecFile, tokenizer: str | None = None) -> None:
    """Write every prompt of a spec file and compare its tokens with those recorded."""
    needle_grid.recount(GRID, found, tokenizer)
