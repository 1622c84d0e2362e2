"""Cross-entropy of a linear layer in chunks: the logits of a whole row never exist.

Legend: N tokens, D hidden size, V vocabulary.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ctxbench.core.compat.transformers import layer_classes
from ctxbench.methods.attach import method_of
from ctxbench.methods.base import Method
from ctxbench.train.sequence import SequenceParallel

CHUNK_ELEMENTS = 2**24
"""Logits held at a time: 64 MiB in float32."""


class _ChunkedLinearCrossEntropy(torch.autograd.Function):
    """Weighted sum of cross-entropies; gradients are made with the loss, one chunk at a time.

    Each chunk's logits are used for the loss and, in place, for the gradients, so nothing is
    recomputed. torch's own F.linear_cross_entropy (2.13) returns the loss in bfloat16 when computed
    in it (off by 0.07 of about 10).
    """

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, labels_N, weights_N, dtype):
        """Return the sum over N of `weight * cross-entropy`, float32 scalar."""
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        weight_compute = weight_VD.to(dtype)
        rows = max(CHUNK_ELEMENTS // weight_VD.shape[0], 1)
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        grad_hidden = torch.empty_like(hidden_ND) if need_hidden else None
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(bias_V, dtype=torch.float32) if need_bias else None
        for begin in range(0, hidden_ND.shape[0], rows):
            part = slice(begin, begin + rows)
            hidden = hidden_ND[part].to(dtype)
            labels, weights = labels_N[part, None], weights_N[part, None]
            logits = (hidden @ weight_compute.T).float()
            if bias_V is not None:
                logits += bias_V.float()
            log_sum = logits.logsumexp(-1, keepdim=True)
            total += ((log_sum - logits.gather(1, labels)) * weights).sum()
            if not (need_hidden or need_weight or need_bias):
                continue
            gradient = logits.sub_(log_sum).exp_()  # probabilities
            gradient.scatter_add_(1, labels, gradient.new_full((), -1.0).expand(labels.shape))
            gradient.mul_(weights)
            if grad_bias is not None:
                grad_bias += gradient.sum(0)
            gradient = gradient.to(dtype)
            if grad_hidden is not None:
                grad_hidden[part] = gradient @ weight_compute
            if grad_weight is not None:
                if dtype == torch.float32:
                    grad_weight.addmm_(gradient.T, hidden)
                else:
                    grad_weight += gradient.T @ hidden
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = weight_VD.dtype, None if bias_V is None else bias_V.dtype
        return total

    @staticmethod
    def backward(ctx, *grad_outputs):
        """Scale the gradients made in the forward pass."""
        scale = grad_outputs[0]
        hidden, weight, bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if hidden is None else hidden * scale.to(hidden.dtype),
            None if weight is None else (weight * scale).to(weight_dtype),
            None if bias is None else (bias * scale).to(bias_dtype),
            None,
            None,
            None,
        )


def chunked_linear_cross_entropy(
    hidden: torch.Tensor,
    head: nn.Linear,
    labels: torch.Tensor,
    weights: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return `sum(weights * cross_entropy(head(hidden), labels))`, a float32 scalar.

    Args:
        hidden: `[N, D]`.
        head: the output layer, `weight [V, D]`, perhaps with an adapter.
        labels: `[N]`, token ids.
        weights: `[N]` float32.
        dtype: of the matrix products; sums, soft-max and loss are float32.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        return _ChunkedLinearCrossEntropy.apply(hidden, *_weights_of(head), labels, weights, dtype)  # type: ignore[return-value]


def _weights_of(head: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return weight `[V, D]` and bias `[V]` of an output layer, its adapter's product added."""
    if not hasattr(head, "base_layer"):
        return head.weight, head.bias
    base = head.base_layer
    return base.weight + sum(map(head.get_delta_weight, head.active_adapters)), base.bias


class CausalLoss(nn.Module):
    """A causal language model whose forward pass is its training loss.

    Being the module that is wrapped for distributed training, it runs the output layer inside the
    wrapped forward pass.

    Args:
        model: with its method, perhaps inside PEFT.
        dtype: of the computation.
        sequence: the processes that share a row; default: none do.
        offload: keep what the backward pass needs of a training forward in host memory.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        sequence: SequenceParallel | None = None,
        offload: bool = False,
    ):
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.sequence = sequence or SequenceParallel()
        self.offload = offload
        _require_plain_logits(self.causal)

    @property
    def causal(self) -> Any:
        """The transformers model inside, without its PEFT wrapper."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def _no_split_modules(self) -> list[str]:
        """Classes of the decoder layers, which FSDP shards one by one."""
        return layer_classes(self.causal)

    def forward(self, batch: dict[str, torch.Tensor], serving: bool = False) -> torch.Tensor:
        """Return the weighted sum of next-token losses, float32 scalar.

        Args:
            batch: `input_ids`, `labels` `[batch, length]` (position i of the labels is the token
                at i; -100 is not scored), optionally `loss_weights` like them; everything else
                goes to the model. Of rows shared with other processes, the part of this one
                counts.
            serving: compute as the method serves, not as it trains.
        """
        if serving and type(method_of(self.causal)).encode is not Method.encode:
            # The method feeds other tokens than the user's; the model's own forward does that.
            return self._loss_of_logits(batch)
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "loss_weights")}
        labels, weights = (F.pad(x, (0, 1)) for x in scored_tokens(batch))  # the last predicts none
        # Autocast's cache would keep a bfloat16 copy of all weights through the forward pass.
        half = self.dtype != torch.float32
        with (
            torch.autocast(labels.device.type, self.dtype, enabled=half, cache_enabled=False),
            self._saving(labels.device),
        ):
            hidden = self.causal.base_model(**inputs, use_cache=False).last_hidden_state
        labels, weights = self.sequence.part(labels), self.sequence.part(weights)
        scored = weights > 0
        return chunked_linear_cross_entropy(
            hidden[scored],
            self.causal.get_output_embeddings(),
            labels[scored],
            weights[scored],
            self.dtype,
        )

    def _loss_of_logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        labels, weights = scored_tokens(batch)
        logits = self.causal(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
        losses = F.cross_entropy(logits.float().mT, labels, reduction="none")
        return (losses * weights).sum()  # of label -100 both are 0

    def _saving(self, device: torch.device) -> AbstractContextManager:
        if not (self.offload and self.training):
            return nullcontext()
        return torch.autograd.graph.save_on_cpu(pin_memory=device.type == "cuda")


def scored_tokens(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return labels and weights `[batch, length - 1]` of the predicted tokens."""
    labels = batch["labels"][:, 1:]
    weights = (labels != -100).float()
    if "loss_weights" in batch:
        weights = weights * batch["loss_weights"][:, 1:]
    return labels, weights


def _require_plain_logits(model) -> None:
    """Refuse models that do something to their logits after the output layer."""
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(model.config, name, None) not in (None, 1.0):
            raise ValueError(
                f"{type(model).__name__} has {name}={getattr(model.config, name)}, which the "
                "chunked loss does not compute. Train a model whose logits are the output layer's "
                "(Llama, Mistral, Qwen, Phi, ...)."
            )
