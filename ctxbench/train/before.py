"""What would stop a run later, or be ignored in it, is looked for before the first update."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ctxbench.train.config import TrainConfig
from ctxbench.train.data import Mixture
from ctxbench.train.sources import parse_source

if TYPE_CHECKING:
    from torch import nn

_SPARE = 2**20
"""Bytes of everything small that a run writes."""


def check_folders(config: TrainConfig) -> None:
    """Check that the result replaces neither the model nor the data, and is no part of the data.

    Raises:
        ValueError: it would be.
    """
    output = Path(config.output).resolve()
    model = Path(config.model).expanduser().resolve()
    if model.is_dir() and (model == output or model in output.parents):
        raise ValueError(
            f"output={config.output} is the folder of the model ({config.model}), or in it. What "
            "is trained must stay as it is, or the same command would train the result of the "
            "first. Give another --output."
        )
    stages = [source for stage in config.stages for source in stage.data]
    for text in [*config.data, *stages, *config.eval_data]:
        folder = Path(parse_source(text).name).expanduser()
        if folder.is_dir() and folder.resolve() in (output, *output.parents):
            raise ValueError(
                f"output={config.output} is in the folder of the data ({folder}), so that what the "
                "run writes would be read as data. Give an --output outside of it."
            )


def check_rows(config: TrainConfig, data: Sequence[Mixture], held_out: Mixture | None) -> list[str]:
    """Check that every source has a row of every length it is read at.

    Args:
        config: of the run.
        data: of each stage, the last being the run's own.
        held_out: for perplexity.

    Returns:
        Sentences about sources that are read more than once.

    Raises:
        ValueError: a source is shorter than a row.
    """
    notes = [note for mixture in data for note in mixture.notes]
    stages = [*config.stages, config.stage(config.steps)]
    done = 0
    for stage, mixture in zip(stages, data, strict=True):
        last = stage is stages[-1]
        steps = config.steps - done if last else stage.steps
        done += steps
        rows = steps * config.tokens_per_step // stage.length
        for name, there, read in mixture.coverage(rows, stage.length):
            if read > there:
                notes.append(
                    f"{name} has {there} rows of {stage.length} tokens, and the run reads "
                    f"{read}: each about {read / there:.1f} times."
                )
    if held_out:
        for length in config.eval_lengths:
            held_out.coverage(config.eval_rows, length)
    return notes


def check_room(
    config: TrainConfig, model: nn.Module, trained: Mapping[str, torch.Tensor], written: bool
) -> None:
    """Check that the checkpoints of a run and its result fit on the disk.

    Args:
        config: of the run.
        model: that trains.
        trained: what of it is in a checkpoint, with two moments, and perhaps an average.
        written: whether checkpoints are written at all.

    Raises:
        ValueError: they do not.
    """
    folder = Path(config.output)
    there = list((folder / "checkpoints").glob("step_????????"))
    copies = 4 if config.ema_decay else 3
    checkpoint = copies * sum(t.numel() * t.element_size() for t in trained.values()) + _SPARE
    saves = -(-config.steps // config.save_every) if written and config.save_every else 0
    # an old one goes when the new one is whole
    count = max(min(config.keep_checkpoints + 1, saves) - len(there), min(saves, 1))
    result = sum(p.numel() * p.element_size() for p in model.parameters()) + _SPARE
    needed = count * checkpoint + result
    free = shutil.disk_usage(_existing(folder)).free
    if needed > free:
        raise ValueError(
            f"There is no room in {config.output} for this run: {count} checkpoints of "
            f"{checkpoint / 2**20:,.0f} MiB and a result of {result / 2**20:,.0f} MiB need "
            f"{needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free. Free some, give "
            "another --output, or write less: --keep-checkpoints 1, a larger --save-every."
        )


def _existing(folder: Path) -> Path:
    folder = Path(os.path.abspath(folder))
    return next(place for place in (folder, *folder.parents) if place.exists())
