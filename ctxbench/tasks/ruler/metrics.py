"""RULER's scores, as the official evaluator (github.com/NVIDIA/RULER, scripts/eval) has them."""

import math
import re
from statistics import fmean

from ctxbench.core.intervals import wilson_of_mean
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


def low(scores: list[float]) -> float:
    """Return the lower end of the 95 % interval of scores from 0 to 100."""
    return 100 * wilson_of_mean(fmean(scores) / 100, len(scores))[0]


def high(scores: list[float]) -> float:
    """Return the upper end of the 95 % interval of scores from 0 to 100."""
    return 100 * wilson_of_mean(fmean(scores) / 100, len(scores))[1]


def by_depth(pairs: list[tuple[float | None, float]]) -> str:
    """Return the mean score of each fifth of the depth, from the start; `-` where there is none."""
    bins: list[list[float]] = [[] for _ in range(_DEPTHS)]
    for depth, score in pairs:
        if depth is not None and not math.isnan(depth):
            bins[min(int(depth * _DEPTHS), _DEPTHS - 1)].append(score)
    return " ".join(f"{fmean(scores):.0f}" if scores else "-" for scores in bins)
