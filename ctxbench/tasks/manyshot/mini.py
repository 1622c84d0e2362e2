"""A many-shot task the bundled mini model can do: made-up labels for words.

Every run draws a new dictionary, 32 words with one of eight four-digit labels each; the shots are
entries drawn at random, so a word may come twice or not at all, and more shots know more words:
a model that looks up what it was shown climbs with the shots from one in eight.
"""

import random

from ctxbench.core.stdlib_corpus import NOUNS

WORDS = 32
LABELS = 8
MAX_SHOTS = 128


def dictionary(run: int, seed: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the eight labels of a run and its (word, label) entries."""
    rng = random.Random(f"dictionary {seed} {run}")
    labels = [f"{value:04d}" for value in rng.sample(range(10000), LABELS)]
    return labels, [(word, rng.choice(labels)) for word in rng.sample(NOUNS, WORDS)]


def shots(entries: list[tuple[str, str]], run: int, seed: int) -> list[tuple[str, str]]:
    """Return the shots of a run in order; fewer shots are the first ones of more."""
    rng = random.Random(f"shots {seed} {run}")
    return [rng.choice(entries) for _ in range(MAX_SHOTS)]
