"""Perplexity during training, at chosen lengths."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ctxbench.methods.attach import method_of
from ctxbench.train.config import TrainConfig
from ctxbench.train.data import Mixture
from ctxbench.train.loss import CausalLoss, scored_tokens

if TYPE_CHECKING:
    from accelerate import Accelerator


@torch.no_grad()
def perplexities(
    network: CausalLoss, data: Mixture, config: TrainConfig, accelerator: Accelerator
) -> dict[str, float]:
    """Return `perplexity_LENGTH` over the first `eval_rows` rows of each length.

    The weights of retrieval documents count; use `stdlib:text=1,split=held_out` for plain text.
    """
    method = method_of(network.causal)
    training = network.training
    network.eval()
    found = {}
    for length in config.eval_lengths:
        totals = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
        # Every rank makes the same number of forward passes, because sharded weights are gathered
        # in them: what is over the end is a row that weighs nothing.
        for number in range(
            accelerator.process_index,
            -(-config.eval_rows // accelerator.num_processes) * accelerator.num_processes,
            accelerator.num_processes,
        ):
            batch = data.batch(number % config.eval_rows, 1, length)
            batch = {k: v.to(accelerator.device) for k, v in batch.items()}
            with method.begin_request(network.causal, [length]), network.sequence.paused():
                loss = network(batch, serving=True)
            if number < config.eval_rows:
                totals[0] += loss
                totals[1] += scored_tokens(batch)[1].sum()
        totals = accelerator.reduce(totals, "sum")
        assert isinstance(totals, torch.Tensor)
        loss, tokens = totals.tolist()
        found[f"perplexity_{length}"] = math.exp(loss / tokens)
    network.train(training)
    return found
