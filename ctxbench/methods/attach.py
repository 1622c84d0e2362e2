"""Binding a method to a model in memory."""

from typing import TYPE_CHECKING, Any

import torch

from ctxbench.core.compat.transformers import check_for_methods
from ctxbench.methods.base import Method
from ctxbench.methods.transparent import expands, make_transparent

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def attach(model: Any, method: Method) -> None:
    """Install a resolved method whose `edit_config` has been applied to `model.config`.

    A method installed before is taken out first; the same method with other options (a longer
    length) keeps its own tensors.
    """
    check_for_methods()
    before = getattr(model, "ctxbench_method", None)
    kept = {}
    if before is not None:
        if before.name == method.name:
            kept = {name: t.detach().clone() for name, t in before.state_tensors(model).items()}
        before.release_model(model)
        for handle in model.ctxbench_expansion:
            handle.remove()
    method.edit_model(model)
    own = method.state_tensors(model) if kept else {}
    with torch.no_grad():
        for name, tensor in own.items():
            if name in kept and kept[name].shape == tensor.shape:
                tensor.copy_(kept[name])
    model.ctxbench_expansion = make_transparent(model, method) if expands(method) else []
    model.ctxbench_method = method  # type: ignore[assignment]


def method_of(model: "PreTrainedModel") -> Method:
    """Return the method installed in a model.

    Raises:
        ValueError: there is none.
    """
    method = getattr(model, "ctxbench_method", None)
    if method is None:
        raise ValueError(
            "This model was not extended by ctxbench. Extend it with ctxbench.extend(model, "
            "METHOD, ...) or load it with ctxbench.load_model(PATH, METHOD, ...)."
        )
    return method
