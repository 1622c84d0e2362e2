"""Whether a checkpoint's weights are those of its model: none is missing, all are numbers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

log = logging.getLogger(__name__)


def check_weights(model: Any, loaded: Mapping[str, Any], path: str) -> None:
    """Check what transformers says of loading, and that every weight is a number.

    Weights that the checkpoint has and the model has not are said: they take no part.

    Args:
        model: as it was loaded.
        loaded: what `from_pretrained` says of it (`output_loading_info`).
        path: of the checkpoint.

    Raises:
        ValueError: a weight is missing, has another shape or is not finite; it names the first.
    """
    shapes = [each if isinstance(each, str) else each[0] for each in loaded["mismatched_keys"]]
    for names, what in (
        (loaded["missing_keys"], "has no"),
        (shapes, "has in another shape than its config.json says:"),
    ):
        if names:
            raise ValueError(
                f"{path} {what} {_listed(names)}. transformers puts random numbers there. Give the "
                "whole checkpoint as it was saved, or correct its config.json."
            )
    if names := _not_finite(model):
        raise ValueError(
            f"{path} has weights that are not finite: {_listed(names)}. Nothing computed with them "
            "is a number. float16 cannot hold all that bfloat16 can: give another dtype; or fetch "
            "the checkpoint again."
        )
    # a method's own, saved by a loop of one's own, it loads itself
    if unexpected := [n for n in loaded["unexpected_keys"] if ".rotary_emb." not in n]:
        log.warning(
            "%s has weights that a %s does not have, and which take no part: %s",
            path, type(model).__name__, _listed(unexpected),
        )  # fmt: skip


def _listed(names: Collection[str]) -> str:
    first = sorted(names)[:3]
    more = f" and {len(names) - len(first)} more" if len(names) > len(first) else ""
    return f"{', '.join(first)}{more}"


def _not_finite(model: Any) -> list[str]:
    """Return the weights with a value that is not finite; NaN is carried to both ends."""
    import torch

    found = []
    for name, weight in model.named_parameters():
        if weight.is_meta or not weight.is_floating_point() or weight.element_size() < 2:
            continue  # not here, or quantised
        if weight.numel() and not all(map(torch.isfinite, torch.aminmax(weight.detach()))):
            found.append(name)
    return found
