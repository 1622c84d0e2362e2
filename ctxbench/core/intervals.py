"""Wilson's 95 % interval of a mean of scores from 0 to 1.

Exact enough for scores of 0 and 1 at any count (Wilson 1927; Brown, Cai and DasGupta 2001,
https://doi.org/10.1214/ss/1009213286), and wider than needed for shares between. Imports nothing
of ours, so that tasks and reports may use the same one.
"""

import math
from collections.abc import Sequence
from statistics import fmean

_Z = 1.959964  # 97.5 % quantile of the normal distribution


def wilson(scores: Sequence[float]) -> tuple[float, float]:
    """Return the lower and upper end of the interval; there is at least one score."""
    return wilson_of_mean(fmean(scores), len(scores))


def wilson_of_mean(mean: float, n: float, z: float = _Z) -> tuple[float, float]:
    """Return the interval of a mean that is worth `n` independent scores; `z` is the quantile."""
    middle = mean + z**2 / (2 * n)
    spread = z * math.sqrt(max(mean * (1 - mean), 0.0) / n + z**2 / (4 * n * n))
    scale = 1 + z**2 / n
    low, high = (middle - spread) / scale, (middle + spread) / scale
    return max(min(low, mean), 0.0), min(max(high, mean), 1.0)  # rounding, at 0 and 1


def low(scores: Sequence[float]) -> float:
    """Return the lower end, for lm-eval's `aggregation`."""
    return wilson(scores)[0]


def high(scores: Sequence[float]) -> float:
    """Return the upper end, for lm-eval's `aggregation`."""
    return wilson(scores)[1]
