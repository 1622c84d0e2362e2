"""From the sums of the shards to the numbers of a perplexity task (lm-eval aggregations).

Sums are made with `math.fsum`, so the result does not depend on how shards were dealt out.
"""

import math
from collections import defaultdict
from collections.abc import Sequence


def perplexity(items: Sequence[tuple[int, float, int]]) -> float:
    """Exp of the mean negative log-likelihood over all scored tokens.

    For the paper's overlapping windows this *is* the mean of window means: they are equally long.

    Args:
        items: (document, sum of NLL in nats, scored tokens) per shard.
    """
    return math.exp(_mean(items))


def perplexity_se(items: Sequence[tuple[int, float, int]]) -> float:
    """Return the standard error of the perplexity over documents; NaN for a single one.

    Tokens of one document are not independent, so the document is the unit: the error of a ratio
    of sums over clusters (Cochran 1977, section 6), carried to exp(mean) by its derivative.
    """
    nll, tokens = defaultdict(list), defaultdict(int)
    for document, value, count in items:
        nll[document].append(value)
        tokens[document] += count
    if len(nll) < 2:
        return math.nan
    mean = _mean(items)
    residuals = (math.fsum(nll[d]) - mean * tokens[d] for d in nll)
    variance = math.fsum(r * r for r in residuals) * len(nll) / (len(nll) - 1)
    return math.exp(mean) * math.sqrt(variance) / sum(tokens.values())


def bits_per_byte(items: Sequence[tuple[float, int, float]]) -> float:
    """Return the mean loss in bits per byte of text, which compares across tokenizers.

    Args:
        items: (sum of NLL in nats, scored tokens, bytes per token of the text) per shard.
    """
    nats_per_token = math.fsum(nll for nll, _, _ in items) / sum(count for _, count, _ in items)
    return nats_per_token / math.log(2) / items[0][2]


class Curve(tuple):
    """A list of numbers in result files, a few words in lm-eval's printed table.

    A tuple, because the table writes out lists whole, hundreds of columns wide.
    """

    def __str__(self) -> str:
        """Return the first and the last number."""
        return f"{self[0]:.2f} to {self[-1]:.2f} ({len(self)} values in the result file)"


def nll_by_position(items: Sequence[Sequence[tuple[float, int]]]) -> Curve:
    """Return the mean NLL in nats per bucket of positions (Figure 3; 256 tokens a bucket).

    Args:
        items: per shard, per bucket, (sum of NLL, scored tokens).
    """
    return Curve(
        math.fsum(nll for nll, _ in points) / sum(count for _, count in points)
        for points in zip(*items, strict=True)
    )


def _mean(items: Sequence[tuple[int, float, int]]) -> float:
    return math.fsum(nll for _, nll, _ in items) / sum(count for _, _, count in items)
