"""A model that is extended for a while: `with ctxbench.extended(model, ...)`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ctxbench.methods.attach import attach
from ctxbench.methods.extension import find_extension, set_extension
from ctxbench.models.loading import extend

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def extended(
    model: PreTrainedModel, method: str | None, **options: Any
) -> Iterator[PreTrainedModel]:
    """Extend a model inside a `with` block, and put back what was there after it.

    Args:
        model: a causal language model with rotary embeddings, extended before or not.
        method: name or preset.
        options: as for `extend`, without `tokenizer`: a tokenizer cannot forget a token.

    Raises:
        ValueError: as `extend`; or the method adds tokens to the vocabulary.
    """
    if "tokenizer" in options:
        raise ValueError(
            "extended(tokenizer=...) is not supported, because a tokenizer cannot forget a token. "
            "Use extend on a copy of the model and the tokenizer."
        )
    before = find_extension(model)
    tensors = before.method.state_tensors(model) if before else {}
    kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    fields = copy.deepcopy(vars(model.config))
    rows = model.get_input_embeddings().weight.shape[0]
    try:
        yield extend(model, method, **options)
    finally:
        found = find_extension(model)
        changed = found is not None and found is not before
        if changed:
            found.method.release_model(model)
        if model.get_input_embeddings().weight.shape[0] != rows:
            model.resize_token_embeddings(rows)
        vars(model.config).clear()
        vars(model.config).update(fields)
        if changed:
            set_extension(model, None)
        if changed and before is not None:
            attach(model, before.method)
            with torch.no_grad():
                for name, tensor in before.method.state_tensors(model).items():
                    tensor.copy_(kept[name])
