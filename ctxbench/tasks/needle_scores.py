"""How the LCEG study scores the San Francisco needle (arXiv 2409.12181).

Reference: github.com/Leooyii/LCEG, needle_plot.py (overlap) and needle_in_haystack.py (ROUGE).
"""

import functools
from importlib.util import find_spec

EXPECTED = "eat a sandwich and sit in dolores park on a sunny day."


def overlap(response: str, expected: str = EXPECTED) -> float:
    """Return the share of the expected words that the response has, as the heat maps show it.

    Words are split at white space, so "day" is not "day."; a word expected twice counts once above
    the line and twice below, so a perfect answer gets 11/12.
    """
    words = expected.split()
    return len(set(response.strip().lower().split()) & set(words)) / len(words)


def check_packages() -> None:
    """Refuse to begin where the scores could not be computed.

    Raises:
        ImportError: rouge-score is not installed.
    """
    if find_spec("rouge_score") is None:
        raise ImportError(
            "The needle's ROUGE-1 is computed by rouge-score, which is not installed. Install it "
            "with: pip install rouge-score"
        )


@functools.lru_cache
def _scorer():
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rouge1"], use_stemmer=True)


def rouge1_x10(response: str, needle: str) -> float:
    """Return ten times ROUGE-1's F of a response against the whole needle: the stored score."""
    return 10 * _scorer().score(needle, response.strip())["rouge1"].fmeasure
