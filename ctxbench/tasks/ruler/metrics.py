"""RULER's scores, as the official evaluator (github.com/NVIDIA/RULER, scripts/eval) has them."""

import math
import re
from statistics import fmean

from ctxbench.tasks.ruler.subtasks import SUBTASKS

_UNPRINTABLE = re.compile(r"[\x00-\x1f]")
_DEPTHS = 5  # bins of `score_by_depth`


def postprocess(prediction: str) -> str:
    """Strip, turn unprintable characters into line breaks, strip again."""
    return _UNPRINTABLE.sub("\n", prediction.strip()).strip()


def match(prediction: str, references: list[str], any_reference: bool) -> float:
    """Score one prediction, 0 to 100.

    Args:
        prediction: after `postprocess`.
        references: searched in the prediction, whatever the case.
        any_reference: one found reference is enough (`string_match_part`); else the share of
            found references counts (`string_match_all`).
    """
    found = [reference.lower() in prediction.lower() for reference in references]
    return 100.0 * (max(found) if any_reference else fmean(found))


def process_results(doc: dict, results: list[str]) -> dict:
    """Score one sample, for lm-eval."""
    prediction = postprocess(results[0])
    score = match(prediction, doc["outputs"], SUBTASKS[doc["subtask"]].any_reference)
    return {
        "score": score,
        "score_low": score,
        "score_high": score,
        "null": 0.0 if prediction else 100.0,
        "score_by_depth": (doc["depth"], score),
    }


def _wilson(scores: list[float], sign: int) -> float:
    """Return one end of Wilson's 95 % interval of a mean of scores from 0 to 100.

    It is exact for scores of 0 and 100, and wider than needed for shares between.
    """
    n, z = len(scores), 1.959964
    p = fmean(scores) / 100
    middle = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return 100 * (middle + sign * spread) / (1 + z * z / n)


def low(scores: list[float]) -> float:
    """Return the lower end of the 95 % interval."""
    return max(_wilson(scores, -1), 0.0)


def high(scores: list[float]) -> float:
    """Return the upper end of the 95 % interval."""
    return min(_wilson(scores, 1), 100.0)


def by_depth(pairs: list[tuple[float | None, float]]) -> str:
    """Return the mean score of each fifth of the depth, from the start; `-` where there is none."""
    bins: list[list[float]] = [[] for _ in range(_DEPTHS)]
    for depth, score in pairs:
        if depth is not None and not math.isnan(depth):
            bins[min(int(depth * _DEPTHS), _DEPTHS - 1)].append(score)
    return " ".join(f"{fmean(scores):.0f}" if scores else "-" for scores in bins)
