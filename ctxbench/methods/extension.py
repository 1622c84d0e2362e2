"""What an extended model carries: its method, and all that was replaced in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ctxbench.core.compat.transformers import attention_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

    from ctxbench.methods.anatomy import WriteTables

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
        tables: what writes the tables of a model that has no such module.
        attention: name of the attention implementation before.
        generate: the model's own `generate` before, where it had one that is not its class's.
        pinned: whether `generate` was replaced.
        save: what stands for its `save_pretrained`.
        forwards: modules whose `forward` was replaced.
        notes: modules and names of attributes that they were given.
        layers: numbers of the layers whose attention a method computes itself.
        proof: what was proven when it was attached, a `Proof`.
    """

    method: Any
    hooks: list[RemovableHandle] = field(default_factory=list)
    rotary: nn.Module | None = None
    tables: WriteTables | None = None
    attention: str | None = None
    generate: Callable[..., Any] | None = None
    pinned: bool = False
    save: Callable[..., Any] | None = None
    forwards: list[nn.Module] = field(default_factory=list)
    notes: list[tuple[nn.Module, str]] = field(default_factory=list)
    layers: tuple[int, ...] = ()
    proof: Any = None

    def replace_rotary(self, model: PreTrainedModel, rotary: nn.Module) -> None:
        """Put a rotary module into the model."""
        from ctxbench.methods.anatomy import (
            RotaryTable,
            WriteTables,
            rotary_of,
            set_rotary,
            text_part,
        )

        part = text_part(model)
        self.rotary = rotary_of(model)
        if isinstance(self.rotary, RotaryTable):
            self.tables = WriteTables(part)
            self.hooks.append(part.register_forward_pre_hook(self.tables, with_kwargs=True))
        set_rotary(model, rotary)

    def replace_attention(self, model: PreTrainedModel, implementation: str) -> None:
        """Let the model's layers call another attention function."""
        self.attention = attention_of(model.config)
        model.set_attn_implementation(implementation)

    def replace_forward(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        """Let a module of the model do something else."""
        self.forwards.append(module)
        module.forward = forward  # type: ignore[method-assign]

    def note(self, module: nn.Module, name: str, value: object) -> None:
        """Set an attribute of a module that has none of this name."""
        self.notes.append((module, name))
        setattr(module, name, value)

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
        from ctxbench.methods.anatomy import set_rotary, text_part

        for handle in self.hooks:
            handle.remove()
        for module in self.forwards:
            del module.forward
        for module, name in self.notes:
            delattr(module, name)
        if self.tables is not None:
            self.tables.undo()
            del text_part(model).rotary_emb
        elif self.rotary is not None:
            set_rotary(model, self.rotary.to(model.device))
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
        self.tables, self.forwards, self.notes = None, [], []


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
