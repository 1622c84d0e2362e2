"""Training from Python: `train_model`, what `ctxbench-train` runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ctxbench.train.config import TrainConfig


def train_model(config: TrainConfig | None = None, **fields: Any) -> Path:
    """Train in this process and return the folder of the checkpoint.

    Args:
        config: of the run; None: the defaults.
        fields: of `TrainConfig`; they replace the config's.
    """
    from ctxbench.train.loop import train

    return train(replace(config, **fields) if config else TrainConfig(**fields))
