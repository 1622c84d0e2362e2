"""How a task's samples are to be read: `sample_format` in the metadata of its YAML.

lm-eval keeps a task's metadata in its results file, so whoever reads the samples beside it knows
their scale, their length and depth, and which of them are independent:

    metadata:
      sample_format: {length: length, depth: depth, percent: [score]}
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ctxbench.core.settings import read_settings

KEY = "sample_format"
_LONGEST = 200  # characters of a field that is kept
LossForm = Literal["nats", "unit_nats_tokens", "loglikelihood_tokens", "nats_tokens_by_position"]
"""What a metric's value in a sample is: a mean loss; [unit, loss in nats, tokens]; [log-likelihood,
tokens]; [loss in nats, tokens] per bucket of positions."""


@dataclass(frozen=True, kw_only=True)
class SampleFormat:
    """How a task's samples are to be read.

    Attributes:
        unit: field of a document; documents that share its value are not independent. None: each
            is by itself.
        length: field with the length of the prompt, tokens.
        depth: field with the depth of the needle, 0 to 1.
        bucket: field with how many positions a bucket holds.
        percent: metrics from 0 to 100; other scores are from 0 to 1.
        losses: metrics that are sums of losses, and their form.
    """

    unit: str | None = None
    length: str | None = None
    depth: str | None = None
    bucket: str | None = None
    percent: tuple[str, ...] = ()
    losses: dict[str, LossForm] = field(default_factory=dict)


def declared_format(results: Mapping[str, Any], task: str) -> SampleFormat | None:
    """Return what a task says in a results file, None if it says nothing.

    Raises:
        ValueError: it says what is not allowed.
    """
    config = (results.get("configs") or {}).get(task) or {}
    said = (config.get("metadata") or {}).get(KEY)
    if said is None:
        return None
    form = read_settings(SampleFormat, said, f"{KEY} of {task}")
    for metric, how in form.losses.items():
        if how not in get_args(LossForm):
            raise ValueError(
                f"{KEY} of {task}: losses {metric}={how!r} is not allowed; it must be one of "
                f"{', '.join(get_args(LossForm))}. Change it."
            )
    return form


def short_fields(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a sample as it is kept: without prompts and other long texts."""
    doc = sample.get("doc") or {}
    return {key: value for key, value in doc.items() if len(json.dumps(value)) <= _LONGEST}
