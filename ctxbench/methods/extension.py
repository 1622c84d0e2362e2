"""What an extended model carries: its method, and all that was replaced in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from ctxbench.core.compat.transformers import attention_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

_ATTRIBUTE = "ctxbench_extension"

ForwardInputs = tuple[tuple[Any, ...], dict[str, Any]]
"""What a forward pre-hook returns: positional and named arguments."""


@dataclass
class Extension:
    """A method in a model, and how to take it out again.

    It is no module, so the rotary module that it keeps is no part of the model.

    Attributes:
        method: a resolved `Method`; its module imports this one, so the type is not named.
        hooks: handles of what it hooked into the model.
        rotary: the module that its rotary module stands for.
        attention: name of the attention implementation before.
        generate: the model's own `generate` before, where it had one that is not its class's.
        pinned: whether `generate` was replaced.
        save: what stands for its `save_pretrained`.
    """

    method: Any
    hooks: list[RemovableHandle] = field(default_factory=list)
    rotary: nn.Module | None = None
    attention: str | None = None
    generate: Callable[..., Any] | None = None
    pinned: bool = False
    save: Callable[..., Any] | None = None

    def replace_rotary(self, model: PreTrainedModel, rotary: nn.Module) -> None:
        """Put a rotary module into the model."""
        self.rotary = cast("nn.Module", model.base_model.rotary_emb)
        model.base_model.rotary_emb = rotary

    def replace_attention(self, model: PreTrainedModel, implementation: str) -> None:
        """Let the model's layers call another attention function."""
        self.attention = attention_of(model.config)
        model.set_attn_implementation(implementation)

    def replace_generate(self, model: PreTrainedModel, generate: Callable[..., Any]) -> None:
        """Put a function before the model's `generate`."""
        self.generate, self.pinned = vars(model).get("generate"), True
        model.generate = generate  # type: ignore[assignment]

    def replace_save(self, model: PreTrainedModel, save: Callable[..., Any]) -> None:
        """Put a function before the model's `save_pretrained`."""
        self.save = save
        model.save_pretrained = save  # type: ignore[method-assign]

    def undo(self, model: PreTrainedModel) -> None:
        """Put back what was replaced."""
        for handle in self.hooks:
            handle.remove()
        if self.rotary is not None:
            model.base_model.rotary_emb = self.rotary.to(model.device)
        if self.attention is not None:
            model.set_attn_implementation(self.attention)
        if self.pinned:
            del model.generate
            if self.generate is not None:
                model.generate = self.generate  # type: ignore[assignment]
        if vars(model).get("save_pretrained") is self.save and self.save is not None:
            del model.save_pretrained
        self.save = None
        self.hooks, self.rotary, self.attention, self.pinned = [], None, None, False


def find_extension(model: nn.Module) -> Extension | None:
    """Return what a model was extended by, None if it was not; adapters are looked through."""
    return getattr(model, _ATTRIBUTE, None)


def extension_of(model: nn.Module) -> Extension:
    """Return what a model was extended by.

    Raises:
        ValueError: it was not.
    """
    found = find_extension(model)
    if found is None:
        raise ValueError(
            "This model was not extended by ctxbench. Extend it with ctxbench.extend(model, "
            "METHOD, ...) or load it with ctxbench.load_model(PATH, METHOD, ...)."
        )
    return found


def set_extension(model: nn.Module, extension: Extension | None) -> None:
    """Note what a model is extended by; None: nothing any more."""
    if extension is not None:
        setattr(model, _ATTRIBUTE, extension)
    elif find_extension(model) is not None:
        delattr(model, _ATTRIBUTE)
