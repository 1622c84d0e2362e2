"""Samples whose task does not say how to read them: those of ctxbench 0.1.0, and of other tasks.

The one place where a report guesses, from names, kinds of columns and the form of a value.
"""

from collections.abc import Mapping
from typing import Any

from ctxbench.core.samples import LossForm, SampleFormat

_IN_PERCENT = ("ruler_", "longbench_")
_IN_SHARES = ("mini_", "niah_", "passkey_", "trec_")


def guess_format(task: str, kind: str, metric: str, sample: Mapping[str, Any]) -> SampleFormat:
    """Return how samples of a task are to be read, from one of them and its column's kind."""
    doc, value = sample.get("doc") or {}, sample[metric]
    unit = {"manyshot": "run", "perplexity": "module", "nll": "module"}.get(kind)
    form: LossForm | None = "nats" if kind in ("perplexity", "nll") else None
    if isinstance(value, list) and value:
        form = "loglikelihood_tokens" if len(value) == 2 else "unit_nats_tokens"
        if isinstance(value[0], list):
            form, unit = "nats_tokens_by_position", "document"
    numbers = {name for name, value in doc.items() if isinstance(value, int | float | None)}
    return SampleFormat(
        unit=unit if unit in doc else None,
        length="length" if "length" in numbers else None,
        depth="depth" if "depth" in numbers else None,
        bucket="bucket" if "bucket" in numbers else None,
        percent=(metric,) if task.startswith(_IN_PERCENT) else (),
        losses={metric: form} if form else {},
    )


def scale_is_known(task: str) -> bool:
    """Return whether a task is of 0.1.0, which had no choice of scales."""
    return task.startswith((*_IN_PERCENT, *_IN_SHARES))


def divisor(largest: float) -> float:
    """Return what brings scores to 0 to 1 where nothing says their scale: the largest tells."""
    return 100.0 if largest > 1 else 1.0
