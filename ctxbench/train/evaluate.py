"""Perplexity during training, at chosen lengths."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ctxbench.methods.attach import method_of
from ctxbench.methods.base import Method
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
        for number in range(accelerator.process_index, config.eval_rows, accelerator.num_processes):
            batch = data.batch(number, 1, length)
            batch = {k: v.to(accelerator.device) for k, v in batch.items()}
            with method.begin_request(network.causal, [length]):
                totals[0] += _loss(network, method, batch)
            totals[1] += scored_tokens(batch)[1].sum()
        totals = accelerator.reduce(totals, "sum")
        assert isinstance(totals, torch.Tensor)
        loss, tokens = totals.tolist()
        found[f"perplexity_{length}"] = math.exp(loss / tokens)
    network.train(training)
    return found


def _loss(network: CausalLoss, method: Method, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the weighted sum of losses as the method serves, not as it trains."""
    if type(method).encode is Method.encode:
        return network(batch)
    # The method feeds other tokens than the user's; the model's own forward pass does that.
    labels, weights = scored_tokens(batch)
    logits = network.causal(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
    losses = F.cross_entropy(logits.float().mT, labels, reduction="none")
    return (losses * weights).sum()  # of label -100 both are 0
