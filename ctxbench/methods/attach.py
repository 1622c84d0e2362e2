"""Binding a method to a model in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ctxbench.core.compat.transformers import check_for_methods
from ctxbench.methods.base import Method
from ctxbench.methods.extension import Extension, extension_of, find_extension, set_extension
from ctxbench.methods.proof import Proof, Switch, prove
from ctxbench.methods.saving import SaveExtended
from ctxbench.methods.transparent import expands, make_transparent

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def attach(model: PreTrainedModel, method: Method, proof: Switch = "on") -> None:
    """Prove and install a resolved method whose `edit_config` has been applied to `model.config`.

    A method installed before is taken out first; the same method with other options (a longer
    length) keeps its own tensors.

    Raises:
        Refused: the method does not compute what it must on this model.
    """
    check_for_methods()
    before = find_extension(model)
    kept = {}
    if before is not None:
        if before.method.name == method.name:
            tensors = before.method.state_tensors(model)
            kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        before.method.release_model(model)
    proven = prove(model, method) if proof == "on" else Proof("off")
    extension = Extension(method, proof=proven)
    set_extension(model, extension)
    extension.replace_save(model, SaveExtended(model))
    method.edit_model(model)
    own = method.state_tensors(model) if kept else {}
    with torch.no_grad():
        for name, tensor in own.items():
            if name in kept and kept[name].shape == tensor.shape:
                tensor.copy_(kept[name])
    if expands(method):
        extension.hooks += make_transparent(model, method)


def method_of(model: nn.Module) -> Method:
    """Return the method installed in a model.

    Raises:
        ValueError: there is none.
    """
    return extension_of(model).method
