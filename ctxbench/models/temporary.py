"""A model that is extended for a while: `with ctxbench.extended(model, ...)`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ctxbench.core.compat.transformers import attention_of
from ctxbench.methods.attach import attach
from ctxbench.methods.extension import find_extension, set_extension
from ctxbench.methods.registry import MethodLike
from ctxbench.models.loading import extend

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@contextmanager
def extended(
    model: PreTrainedModel,
    method: MethodLike | None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **options: Any,
) -> Iterator[PreTrainedModel]:
    """Extend a model inside a `with` block, and put back what was there after it.

    Args:
        model: a causal language model with rotary embeddings, extended before or not.
        method: as for `extend`.
        tokenizer: edited too, and put back with the model.
        options: as for `extend`.

    Blocks may be nested; each puts back what it found.

    Raises:
        ValueError: as `extend`.
    """
    before = find_extension(model)
    tensors = before.method.state_tensors(model) if before else {}
    kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    fields = copy.deepcopy(vars(model.config))
    rows = _embedding_rows(model)
    tokenizer_fields = dict(vars(tokenizer)) if tokenizer is not None else {}
    try:
        if tokenizer is not None:  # a tokenizer cannot forget a token: a copy gets it
            vars(tokenizer).update(copy.deepcopy(tokenizer_fields))
        yield extend(model, method, tokenizer=tokenizer, **options)
    finally:
        if tokenizer is not None:
            vars(tokenizer).clear()
            vars(tokenizer).update(tokenizer_fields)
        found = find_extension(model)
        changed = found is not before
        if changed and found is not None:
            found.method.release_model(model)
        if _embedding_rows(model) != rows:
            model.resize_token_embeddings(rows)
        attention = attention_of(model.config)
        vars(model.config).clear()
        vars(model.config).update(fields)
        if changed:
            set_extension(model, None)
        if changed and before is not None:
            if attention is not None:  # what `attach` finds is what it will put back
                model.set_attn_implementation(attention)
            attach(model, before.method)
            with torch.no_grad():
                for name, tensor in before.method.state_tensors(model).items():
                    tensor.copy_(kept[name])


def _embedding_rows(model: PreTrainedModel) -> int:
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])
