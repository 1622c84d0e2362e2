"""After an export: the folder is opened again, and must compute what the trained model does."""

from __future__ import annotations

from pathlib import Path

import torch

from ctxbench.methods.attach import method_of
from ctxbench.models.loading import load_model
from ctxbench.train.config import TrainConfig
from ctxbench.train.data import Mixture
from ctxbench.train.loss import CausalLoss, scored_tokens

ROWS, TOKENS = 2, 1024
"""Rows of the data that are compared, and how much of each."""
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2}
"""Of the mean loss, relative: adding an adapter's product rounds; bfloat16 rounds it again."""


@torch.no_grad()
def served_loss(network: CausalLoss, data: Mixture, config: TrainConfig) -> float:
    """Return the mean loss of the model as it serves, over real rows; all processes have to ask.

    Args:
        network: that trained, or of a model that was opened again.
        data: of the run.
        config: of the run.
    """
    causal, length = network.causal, min(config.length, TOKENS)
    device = next(causal.parameters()).device
    state, network.dtype = (network.dtype, network.training), _compared_in(config)
    network.eval()
    loss, tokens = 0.0, 0.0
    for number in range(ROWS):
        batch = data.batch(number, 1, length)
        tokens += float(scored_tokens(batch)[1].sum())
        batch = {name: value.to(device) for name, value in batch.items()}
        with method_of(causal).begin_request(causal, [length]), network.sequence.paused():
            loss += float(network(batch, serving=True))
    network.dtype = state[0]
    network.train(state[1])
    return loss / max(tokens, 1.0)


def difference(folder: Path, expected: float, data: Mixture, config: TrainConfig) -> str | None:
    """Return how a folder differs from what trained, None where it does not.

    Args:
        folder: a checkpoint.
        expected: `served_loss` of the model that trained.
        data: of the run.
        config: of the run.
    """
    model, _ = load_model(folder, dtype=torch.float32)
    dtype = _compared_in(config)
    found = served_loss(CausalLoss(model, dtype), data, config)
    if abs(found - expected) <= _TOLERANCE[dtype] * max(abs(expected), 1.0):
        return None
    return (
        f"The model in {folder}, opened again, is another one than the one that trained: its loss "
        f"on {ROWS} rows of the data is {found:.4f}, that of the trained model {expected:.4f}. "
        "They must be equal. Nothing in the output was replaced and the training checkpoint is "
        "kept; please report this with train.yaml."
    )


def _compared_in(config: TrainConfig) -> torch.dtype:
    """Return float32, but for kernels that have none."""
    flash = "flash" in (config.attention or "")
    return torch.bfloat16 if flash else torch.float32
