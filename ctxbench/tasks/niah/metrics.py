"""Scores of a needle, 0 to 1."""

from statistics import fmean

from ctxbench.tasks.needle_scores import overlap, rouge1_x10


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
