"""Training from Python: `train_model`, what `ctxbench-train` runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ctxbench.train.config import TrainConfig, make_config


def train_model(
    config: TrainConfig | None = None, *, recipe: str | None = None, **fields: Any
) -> Path:
    """Train in this process and return the folder of the checkpoint.

    Args:
        config: of the run, whole.
        recipe: in its place: a name or YAML file, as of `ctxbench-train --recipe`.
        fields: of `TrainConfig`; they go over the config's or the recipe's.

    Raises:
        ValueError: both a config and a recipe; or settings that make no sense.
    """
    from ctxbench.train.loop import train

    if config is None:
        return train(make_config(recipe, fields), recipe=recipe)
    if recipe is not None:
        raise ValueError(
            f"train_model was given a config and recipe={recipe!r}, which would be ignored. Give "
            "one of them."
        )
    return train(replace(config, **fields))
