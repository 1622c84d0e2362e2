"""Where a model keeps what methods replace: text part, layers, rotary module; found by looking.

No model type is named here but for the two kinds that read a table instead of a module.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from ctxbench.methods.rope_settings import TABLE_BASE, WHOLE, has_table, is_nested, rotary_dim

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ROWS = 2048
"""Tables grow by this many positions."""
TEXT_PARTS = ("language_model", "text_model", "model")
"""Names of the text part inside of a model that reads images or sound too."""
LAYERS = ("layers", "h", "blocks")
"""Names of the list of decoder layers."""


def text_part(model: nn.Module) -> Any:
    """Return the module that owns the decoder layers, without an output head."""
    part: Any = getattr(model, "base_model", model)
    while not any(hasattr(part, name) for name in LAYERS):
        inner = next((name for name in TEXT_PARTS if hasattr(part, name)), None)
        if inner is None:
            break
        part = getattr(part, inner)
    return part


def text_config(model: nn.Module) -> PreTrainedConfig:
    """Return the config that the text part was made from."""
    return text_part(model).config


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the decoder layers.

    Raises:
        ValueError: there is no list of them.
    """
    part = text_part(model)
    for name in LAYERS:
        if isinstance(found := getattr(part, name, None), nn.ModuleList):
            return found
    raise ValueError(f"{type(part).__name__} has no list of its layers ({', '.join(LAYERS)})")


def attention_modules(layer: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the outermost attention modules of a decoder layer, with their names."""

    def outermost(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
        for name, child in module.named_children():
            place = f"{prefix}{name}"
            if "attention" in type(child).__name__.lower():
                yield place, child
            else:
                yield from outermost(child, f"{place}.")

    return list(outermost(layer, ""))


# ------------------------------------------------------------ the rotary module


def has_rotary(model: nn.Module) -> bool:
    """Return whether a model has a rotary embedding that can be replaced."""
    part = text_part(model)
    return _rotary_name(part) is not None or has_table(part.config)


def rotary_of(model: nn.Module) -> Any:
    """Return the rotary module of the text part, a stand-in where it reads a table.

    Raises:
        ValueError: it has none in the place where all models have theirs.
    """
    part = text_part(model)
    if name := _rotary_name(part):
        return getattr(part, name)
    if has_table(part.config):
        return RotaryTable(part.config)
    raise ValueError(
        f"{type(part).__name__} has no rotary module of its own from which its layers take their "
        "rotation"
    )


def set_rotary(model: nn.Module, rotary: nn.Module) -> None:
    """Put a rotary module into the text part."""
    part = text_part(model)
    setattr(part, _rotary_name(part) or "rotary_emb", rotary)


def _rotary_name(part: nn.Module) -> str | None:
    """Return the name of the one rotary module of a text part."""
    if getattr(part, "rotary_emb", None) is not None:
        return "rotary_emb"
    named = [
        name
        for name, child in part.named_children()
        if "Rotary" in type(child).__name__ or isinstance(child, StandIn)
    ]
    return named[0] if len(named) == 1 else None


def layer_types(config: PreTrainedConfig) -> list[str]:
    """Return the types of layers that have rotary settings of their own; empty for one setting."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if not is_nested(parameters):
        return []
    there = set(getattr(config, "layer_types", None) or parameters)
    return [name for name, value in parameters.items() if value and name in there]


def rotate(rotary: nn.Module, x: torch.Tensor, positions: torch.Tensor, kind: str | None) -> Any:
    """Return what a rotary module gives at positions `[batch, length]`.

    Args:
        rotary: of a model.
        x: gives dtype and device.
        positions: `[batch, length]`.
        kind: type of the layer, for a module with settings for each.
    """
    return rotary(x, positions, kind) if kind else rotary(x, positions)


class StandIn(nn.Module):
    """Stands for a model's rotary module, its submodule `own`, which answers for what it lacks."""

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the model's own module where this one has none."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "own":
                raise
            return getattr(super().__getattr__("own"), name)


Layout = Literal["halves", "pairs", "single", "complex"]


@dataclass(frozen=True)
class RotaryFormat:
    """How a rotary module states angles.

    Attributes:
        layout: of the last dimension: angles twice in a row (`halves`, Llama), each twice
            (`pairs`, Cohere), once (`single`, gpt-oss), or as complex numbers (Llama-4).
    """

    layout: Layout = "halves"

    def stated(self, phase: torch.Tensor, scale: Any, dtype: torch.dtype) -> Any:
        """Return angles as the model's layers take them.

        Args:
            phase: `[batch, length, d / 2]` float64, radians.
            scale: on cos and sin; a number or `[batch, 1, 1]`.
            dtype: of the result.
        """
        if self.layout == "complex":
            return torch.polar(torch.ones_like(phase) * scale, phase).to(torch.complex64)
        if self.layout == "halves":
            phase = torch.cat((phase, phase), dim=-1)
        elif self.layout == "pairs":
            phase = phase.repeat_interleave(2, dim=-1)
        return (phase.cos() * scale).to(dtype), (phase.sin() * scale).to(dtype)

    def once(self, stated: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin with each angle once, `[batch, length, d / 2]`."""
        if self.layout == "complex":
            return stated.real, stated.imag
        cos, sin = stated
        half = cos.shape[-1] // 2
        if self.layout == "halves":
            return cos[..., :half], sin[..., :half]
        if self.layout == "pairs":
            return cos[..., ::2], sin[..., ::2]
        return cos, sin


def format_of(rotary: nn.Module, dim: int, kind: str | None = None) -> RotaryFormat:
    """Return how a rotary module states its angles.

    Args:
        rotary: of the model.
        dim: d, rotated dimensions of a head.
        kind: type of the layer, for a module with settings for each.

    Raises:
        ValueError: in a way that is not known.
    """
    buffer = next(iter(rotary.buffers()), None)
    device = buffer.device if buffer is not None else torch.device("cpu")
    with torch.device(device):  # none of a model that is just being made elsewhere
        stated = rotate(rotary, torch.zeros(1), torch.tensor([[1, 2, 5]]), kind)
    if isinstance(stated, torch.Tensor) and stated.is_complex():
        return RotaryFormat("complex")
    cos, sin = stated
    if cos.shape[-1] == dim // 2:
        return RotaryFormat("single")
    half = cos.shape[-1] // 2
    if cos.shape[-1] == dim:
        both = torch.stack((cos, sin))
        if torch.equal(both[..., :half], both[..., half:]):
            return RotaryFormat("halves")
        if torch.equal(both[..., ::2], both[..., 1::2]):
            return RotaryFormat("pairs")
    raise ValueError(
        f"{type(rotary).__name__} states {cos.shape[-1]} angles for {dim} rotated dimensions, in "
        "an order that ctxbench does not know"
    )


def extended_kind(config: PreTrainedConfig) -> str | None:
    """Return the type of layers that a method extends; None where all have one setting.

    Raises:
        ValueError: there are types, and none sees the whole text.
    """
    kinds = layer_types(config)
    if kinds and WHOLE not in kinds:
        raise ValueError(f"none of its layers sees the whole text ({', '.join(kinds)})")
    return WHOLE if kinds else None


# ------------------------------------------------------------ tables instead of a module


class RotaryTable(nn.Module):
    """Stands for the rotary module of a model that reads a table of sines (GPT-J, CodeGen)."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin `[batch, length, d / 2]`, as the model's own table has them."""
        dim = rotary_dim(self.config)
        inverse = 1.0 / (TABLE_BASE ** (torch.arange(0, dim, 2, dtype=torch.int64) / dim))
        phase = position_ids[..., None].float() * inverse.to(x.device)
        return phase.cos().to(x.dtype), phase.sin().to(x.dtype)


class WriteTables:
    """Forward pre-hook: the tables of all layers follow the rotary module that is installed.

    Args:
        part: the text part.
    """

    def __init__(self, part: Any) -> None:
        self._readers = [m for m in part.modules() if hasattr(m, "embed_positions")]
        self._before = [module.embed_positions for module in self._readers]
        self._written: object = None

    def __call__(self, part: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Write the tables, if they would be others."""
        given = kwargs.get("input_ids", args[0] if args else None)
        given = given if given is not None else kwargs["inputs_embeds"]
        cache, rotary = kwargs.get("past_key_values"), part.rotary_emb
        length = given.shape[1] + (int(cache.get_seq_length()) if cache is not None else 0)
        rows = -(-length // ROWS) * ROWS
        lengths = (getattr(rotary, "pinned", None), getattr(rotary, "current", None))
        if self._written == (id(rotary), rows, lengths, given.device):
            return
        at = torch.arange(rows, device=given.device)[None]
        stated = rotary(torch.zeros(1, device=given.device), at)
        if stated[0].shape[0] > 1:
            raise ValueError(
                f"A {part.config.model_type} model reads one table of angles for a whole batch, "
                "and this method has one for each length of a request. Give batch_size=1."
            )
        cos, sin = (side[0, :, : rotary_dim(part.config) // 2] for side in stated)
        self._put([torch.cat((sin, cos), dim=-1)] * len(self._readers))
        self._written = (id(rotary), rows, lengths, given.device)

    def undo(self) -> None:
        """Put back the model's own tables."""
        self._put(self._before)
        self._written = None

    def _put(self, tables: list[torch.Tensor]) -> None:
        for module, table in zip(self._readers, tables, strict=True):
            module.embed_positions = table
