"""Going on from a checkpoint: which one, and what of a run is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonlines
import torch

from ctxbench.core.atomic_file import write_atomically
from ctxbench.core.text_files import json_lines
from ctxbench.train.checkpoint import Checkpoint, find_checkpoint, open_checkpoint
from ctxbench.train.config import TrainConfig, decisive_settings
from ctxbench.train.ema import MovingAverage

if TYPE_CHECKING:
    from ctxbench.train.parallel import Ranks


def checkpoint_to_resume(
    config: TrainConfig, info: Mapping[str, Any], ranks: Ranks
) -> Checkpoint | None:
    """Return the checkpoint to go on from; the first process checks that it is whole.

    Raises:
        ValueError: the folder holds another run.
    """
    folder = Path(config.output) / "checkpoints"
    found = find_checkpoint(folder, ranks.accelerator.print) if ranks.main else None
    chosen = ranks.gather(found and found.folder)[0]
    if chosen is None:
        return None
    checkpoint = found or open_checkpoint(chosen)
    if config.resume == "never":
        raise ValueError(
            f"resume=never, but {folder} holds checkpoints. Remove them, give another --output, or "
            "use --resume auto."
        )
    for what, theirs, ours in _decisive(checkpoint.info, info):
        if theirs == ours:
            continue
        if isinstance(ours, dict):
            ours = {k: v for k, v in ours.items() if v != theirs.get(k)}
            theirs = {k: theirs.get(k) for k in ours}
        raise ValueError(
            f"{checkpoint.folder} was made with {what}: {theirs} there, {ours} now. Give the same, "
            "to resume, or another --output, to begin a new run."
        )
    ranks.accelerator.print(f"Resumed at step {checkpoint.step} from {checkpoint.folder}.")
    return checkpoint


def _decisive(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return what must be equal: what differs, as a message says it, there and now.

    Model and data are what their bytes are; where they lie may change. Version 0.1.0 knew them by
    path and time.
    """
    if "model" not in saved:
        there, here = (decisive_settings(one["config"], places=True) for one in (saved, now))
        return [("other settings", there, here), ("other data", saved["data"], now["data"])]
    there, here = (decisive_settings(one["config"]) for one in (saved, now))
    return [
        ("other settings", there, here),
        ("another model to begin with", saved["model"], now["model"]),
        ("other data", saved["content"], now["content"]),
    ]


def run_state(
    trained: Mapping[str, torch.Tensor], average: MovingAverage, optimizers: Sequence[Any]
) -> dict[str, torch.Tensor]:
    """Return every tensor that a run goes on with, by name.

    Args:
        trained: what training changes, as it was when the optimizers got it: the model itself shows
            gathered copies between a forward pass and its backward pass.
        average: of the weights.
        optimizers: their learning rates are functions of the step and no part of it.
    """
    state = {f"weights.{name}": tensor for name, tensor in trained.items()}
    state |= {f"average.{name}": tensor for name, tensor in average.tensors.items()}
    for name, parameter in trained.items():
        for number, optimizer in enumerate(optimizers):
            for key, value in optimizer.state.get(parameter, {}).items():
                state[f"optimizer{number}.{key}.{name}"] = value
    return state


@torch.no_grad()
def restore(
    checkpoint: Checkpoint,
    trained: Mapping[str, torch.Tensor],
    average: MovingAverage,
    optimizers: Sequence[Any],
) -> None:
    """Put the tensors of a checkpoint in place, on any number of processes."""
    saved = checkpoint.tensors()
    for name, tensor in trained.items():
        saved.load_into(f"weights.{name}", tensor)
    for name, tensor in average.tensors.items():
        saved.load_into(f"average.{name}", tensor)
    for entry in saved:
        owner, _, rest = entry.partition(".")
        if owner.startswith("optimizer"):
            key, _, name = rest.partition(".")
            parameter = trained[name]
            if saved.shapes[entry] == tuple(parameter.shape):
                value = torch.zeros_like(parameter)
            else:  # a count of steps, whole on every process
                value = torch.zeros(saved.shapes[entry], device=parameter.device)
            saved.load_into(entry, value)
            optimizers[int(owner.removeprefix("optimizer"))].state[parameter][key] = value


def drop_metrics_after(file: Path, step: int) -> None:
    """Keep the lines of the steps that the run resumes after."""
    if not file.exists():
        return
    with jsonlines.open(file) as lines:
        found = list(lines.iter(type=dict, skip_invalid=True))  # cut, if a kill came while writing
    write_atomically(file, json_lines(metrics for metrics in found if metrics["step"] <= step))
