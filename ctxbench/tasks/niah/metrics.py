"""Scores of a needle: ours, and the LCEG study's (arXiv 2409.12181).

The study's: github.com/Leooyii/LCEG, needle_plot.py (overlap) and needle_in_haystack.py (ROUGE).
"""

import functools
from importlib.util import find_spec
from statistics import fmean

EXPECTED = "eat a sandwich and sit in dolores park on a sunny day."


def exact(response: str, answer: str) -> float:
    """Return 1 if the response holds the answer, whatever its case and white space, else 0."""
    return float(" ".join(answer.lower().split()) in " ".join(response.lower().split()))


def process_results(doc: dict, results: list[str]) -> dict[str, float | None]:
    """Score one sample; the study's overlap is defined for the classic needle alone."""
    score = exact(results[0], doc["answer"])
    return {
        "score": score,
        "score_low": score,
        "score_high": score,
        "overlap": overlap(results[0]) if doc["kind"] == "classic" else None,
        "rouge1": rouge1_x10(results[0], doc["needle"]) / 10,
    }


def mean_of_given(scores: list[float | None]) -> float:
    """Return the mean of the scores that are not None."""
    return fmean([score for score in scores if score is not None] or [float("nan")])


def process_results_lceg(doc: dict, results: list[str]) -> dict[str, float]:
    """Score one sample as the study's heat maps do; `exact` is ours."""
    score = overlap(results[0])
    return {
        "score": score,
        "exact": exact(results[0], doc["answer"]),
        "rouge1": rouge1_x10(results[0], doc["needle"]) / 10,
    }


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
