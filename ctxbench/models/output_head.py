"""Exact log-probabilities from hidden states: float32 logits, never all of them at once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

_LOGITS_BYTES = 32 * 2**20  # of one block of float32 logits
_WEIGHT_BYTES = 2**30  # up to this a float32 copy of a half-precision head is kept


class OutputHead:
    """The output head of a model, in float32 whatever the model's dtype.

    Half-precision logits are off by up to 0.4 % of their size and half-precision sums over a window
    by 1 to 2 % of perplexity; here logits are products of the stored hidden states and weights
    in float32, the normaliser is a float32 log-sum-exp, and callers sum in float64.
    """

    def __init__(self, model: PreTrainedModel):
        head: Any = model.get_output_embeddings()
        config = model.config
        self.model = model
        self.linear = type(head) is nn.Linear
        self.softcap = getattr(config, "final_logit_softcapping", None)
        self.scale = getattr(config, "logit_scale", None) or 1.0
        if divisor := getattr(config, "logits_scaling", None):
            self.scale = 1.0 / divisor
        self.weight = _whole(head.weight) if self.linear else None
        self.bias = _whole(head.bias).float() if self.linear and head.bias is not None else None
        self._float_weight: torch.Tensor | None = None
        self.exact = self.linear and self._agrees()
        if not self.exact:
            log.warning(
                "The output head of %s is not a plain linear layer; log-probabilities are taken "
                "from the model's own logits in its own dtype.",
                type(model).__name__,
            )

    def logprobs(
        self, hidden: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log-probability of each target and whether it is the most likely token.

        Args:
            hidden: `[n, hidden_size]`, the model's last hidden states.
            targets: `[n]` token ids.

        Returns:
            `[n]` float32 natural logarithms, and `[n]` bool.
        """
        assert self.weight is not None
        vocabulary = self.weight.shape[0]
        rows = max(1, _LOGITS_BYTES // (4 * vocabulary))
        if self._needs_vocabulary_blocks():
            rows = 2048
        # One pair of buffers for all blocks: fresh ones would cost more in page faults than the
        # arithmetic on them.
        shape = (2, min(rows, len(hidden)), 0 if self._needs_vocabulary_blocks() else vocabulary)
        buffers = torch.empty(shape, dtype=torch.float32, device=hidden.device)
        found = [
            self._block(hidden[i : i + rows], targets[i : i + rows], buffers)
            for i in range(0, len(hidden), rows)
        ]
        return torch.cat([p for p, _ in found]), torch.cat([g for _, g in found])

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32 logits `[n, vocabulary]` of a few hidden states `[n, hidden_size]`."""
        assert self.weight is not None
        if self._needs_vocabulary_blocks():
            step = self._vocabulary_step(len(hidden))
            parts = [
                self._logits_of(hidden.float(), i, i + step)
                for i in range(0, self.weight.shape[0], step)
            ]
            return torch.cat(parts, dim=-1)
        return self._logits_of(hidden.float(), 0, self.weight.shape[0])

    def _block(self, hidden, targets, buffers):
        hidden = hidden.float()
        if not self._needs_vocabulary_blocks():
            logits, logprobs = buffers[:, : len(hidden)]
            vocabulary = self.weight.shape[0]  # type: ignore[union-attr]
            logits = self._logits_of(hidden, 0, vocabulary, out=logits)
            # on CPUs several times faster than logsumexp
            torch.log_softmax(logits, -1, out=logprobs)
            return logprobs.gather(1, targets[:, None])[:, 0], _are_greedy(logits, targets)
        best = torch.full((len(hidden),), -torch.inf, device=hidden.device)
        total, picked = best.clone(), best.clone()
        winner = torch.zeros_like(targets)
        step = self._vocabulary_step(len(hidden))
        for start in range(0, self.weight.shape[0], step):  # type: ignore[union-attr]
            logits = self._logits_of(hidden, start, start + step)
            total = torch.logaddexp(total, logits.logsumexp(-1))
            top, index = logits.max(-1)
            winner = torch.where(top > best, index + start, winner)
            best = torch.maximum(best, top)
            local = targets - start
            here = (local >= 0) & (local < logits.shape[1])
            chosen = logits.gather(1, local.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
            picked = torch.where(here, chosen, picked)
        return picked - total, winner == targets

    def _logits_of(self, hidden, start: int, stop: int, out: torch.Tensor | None = None):
        """Return float32 logits of a slice of the vocabulary."""
        logits = torch.mm(hidden, self._weights(start, stop).T, out=out)
        if self.bias is not None:
            logits += self.bias[start:stop]
        if self.scale != 1:
            logits *= self.scale
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def _weights(self, start: int, stop: int) -> torch.Tensor:
        assert self.weight is not None
        if self.weight.dtype == torch.float32:
            return self.weight[start:stop]
        if self._needs_vocabulary_blocks():
            return self.weight[start:stop].float()
        if self._float_weight is None:
            self._float_weight = self.weight.detach().float()
        return self._float_weight[start:stop]  # type: ignore[index]

    def _needs_vocabulary_blocks(self) -> bool:
        assert self.weight is not None
        return self.weight.dtype != torch.float32 and 4 * self.weight.numel() > _WEIGHT_BYTES

    def _vocabulary_step(self, rows: int) -> int:
        return max(1024, _LOGITS_BYTES // (4 * max(rows, 1)))

    @torch.no_grad()
    def _agrees(self) -> bool:
        """Return whether head times hidden state is what the model itself computes."""
        ids = torch.tensor([[1, 2, 3, 4]], device=self.model.device) % self.model.config.vocab_size
        ours = self.logits(self.model.base_model(ids, use_cache=False).last_hidden_state[0])
        theirs = self.model(ids, use_cache=False).logits[0].float()
        if ours.shape != theirs.shape:
            return False
        rough = 1e-3 if self.model.dtype in (torch.float32, torch.float64) else 5e-2
        return bool((ours - theirs).abs().max() <= rough * theirs.abs().max().clamp(min=1))


def _are_greedy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return whether each target is the first of the largest logits, `[n]` bool."""
    greedy = logits.gather(1, targets[:, None])[:, 0] == logits.amax(-1)
    (largest,) = greedy.nonzero(as_tuple=True)  # argmax is slow; it only decides ties
    greedy[largest] = logits[largest].argmax(-1) == targets[largest]
    return greedy


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor gathered from the devices that tensor parallelism cuts it over."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
