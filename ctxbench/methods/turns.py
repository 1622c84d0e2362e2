"""How each layer of a model rotates queries and keys: found by looking, not by its name.

Queries and keys are seen twice, with the model's own angles and with angles of zero; the difference
is the layer's rotation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ctxbench.methods.anatomy import (
    RotaryFormat,
    StandIn,
    extended_kind,
    format_of,
    layer_types,
    rotary_of,
    rotate,
    set_rotary,
    text_config,
)
from ctxbench.methods.kernels.rope import Angles, Rope, Turn
from ctxbench.methods.look import Look, Seen
from ctxbench.methods.rope_settings import rotary_dim

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedConfig, PreTrainedModel

CLOSE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Of the largest number, by the dtype that layers run in and cos and sin are rounded to. A layout
that is another one is off by far more."""
KNOWN = {
    *("scaling", "softcap", "s_aux", "sliding_window", "is_causal", "position_ids", "use_cache"),
    *("output_attentions", "output_hidden_states", "output_router_logits", "cache_position"),
    *("position_embeddings", "return_dict", "logits_to_keep", "layer_type", "num_items_in_batch"),
}
"""What attention may be told; positions are counted, and all attention is causal."""
SLIDING, CHUNKED = "sliding_attention", "chunked_attention"


class IdentityRotary(StandIn):
    """Stands in for the rotary module and rotates nothing; it keeps the real one for the method."""

    def __init__(self, rotary: nn.Module, form: RotaryFormat | None = None) -> None:
        super().__init__()
        self.own, self.format = rotary, form or RotaryFormat()

    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None
    ) -> Any:
        """Return angles of zero as the real module states them, for `[batch, length]` positions."""
        first = position_ids[..., :1, :1]
        angles, _ = self.format.once(
            self.own(x, first, layer_type) if layer_type else self.own(x, first)
        )
        shape = (*position_ids.shape[-2:], angles.shape[-1])
        return self.format.stated(torch.zeros(shape, device=x.device).double(), 1.0, x.dtype)


@dataclass(frozen=True)
class LayerTurn:
    """What one layer does besides scoring all pairs.

    Attributes:
        rope: its rotation.
        norms: modules that act after the rotation; they are part of `rope` and pass on in place.
        names: of these in the layer.
        window: tokens it sees, the token itself included; None: all.
        chunk: tokens of the chunks that do not see each other; None: there are none.
    """

    rope: Rope
    norms: tuple[nn.Module, ...] = ()
    names: tuple[str, ...] = ()
    window: int | None = None
    chunk: int | None = None

    @property
    def whole(self) -> bool:
        """Whether it sees the whole text."""
        return self.window is None and self.chunk is None


def find_turns(model: PreTrainedModel, rotary: nn.Module) -> dict[int, LayerTurn]:
    """Return what each layer does whose attention can be replaced, by its number.

    Args:
        model: as loaded, no method in it.
        rotary: its rotary module, in float32.

    Raises:
        ValueError: attention of none can be, or a rotation that is not known.
    """
    config, look, own = text_config(model), Look(model), rotary_of(model)
    if not look.in_memory:
        return dict.fromkeys(range(len(look.layers)), LayerTurn(Rope(_unseen)))
    kinds = layer_types(config) or [None]
    forms = {kind: format_of(rotary, rotary_dim(config, kind), kind) for kind in kinds}
    still = IdentityRotary(rotary, forms[extended_kind(config)])
    try:
        set_rotary(model, rotary)
        turned = look.scores_of()
        set_rotary(model, still)
        plain = look.scores_of()
    finally:
        set_rotary(model, own)
    if not turned:
        raise ValueError("its layers do not ask transformers' AttentionInterface")
    found = {}
    for number, seen in turned.items():
        if number not in look.run_layers:
            raise ValueError(f"the attention of a layer says it is number {number}, and is not")
        kind = _kind(config, number) if layer_types(config) else None
        angles = angles_of(rotary, forms[kind], kind)
        layer = look.layers[number]
        found[number] = _layer_turn(config, layer, number, angles, plain[number], seen)
    return {
        number: found[first] if first == number else _same(found[first], layer)
        for number, (first, layer) in enumerate(zip(look.alike, look.layers, strict=True))
        if first in found
    }


def _unseen(x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Angles of a model without weights, whose layers could not be looked at.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "A method was attached while the weights of the model were not in memory. Attach it again "
        "(ctxbench.extend) once they are."
    )


def angles_of(
    rotary: nn.Module, form: RotaryFormat | None = None, kind: str | None = None
) -> Angles:
    """Return the angles of a rotary module as a function of positions.

    Args:
        rotary: of a model.
        form: how it states them; default as Llama's does.
        kind: type of the layer, for a module with settings for each.
    """
    form = form or RotaryFormat()

    def angles(x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cos, sin = form.once(rotate(rotary, x, positions, kind))
        return cos.to(x.dtype), sin.to(x.dtype)

    return angles


def _layer_turn(
    config: PreTrainedConfig,
    layer: nn.Module,
    number: int,
    angles: Any,
    plain: Seen,
    seen: Seen,
) -> LayerTurn:
    window, chunk = _reach(config, number, seen)
    if others := [name for name in seen.named if name not in KNOWN]:
        raise ValueError(
            f"the attention of layer {number} is told {', '.join(others)}, which attention methods "
            "do not know"
        )
    if _near(plain.query, seen.query) and _near(plain.key, seen.key):
        return LayerTurn(Rope(None), window=window, chunk=chunk)
    at = torch.arange(plain.query.shape[2], device=plain.query.device)[None]
    sides = [(plain.query, seen.query), (plain.key, seen.key)]
    if turn := _turn_of(sides, angles, at):
        return LayerTurn(Rope(angles, turn), window=window, chunk=chunk)
    names = tuple(n for n, (fed, _) in seen.norms.items() if not _near(fed, plain.norms[n][0]))
    if len(names) == 2:
        if not _near(_like(seen.norms[names[0]][1], seen.query), seen.query):
            names = names[::-1]
        fed = [(plain.norms[name][0], seen.norms[name][0]) for name in names]
        like = (seen.query, seen.key)
        if turn := _turn_of(
            [[_like(x, side) for x in pair] for pair, side in zip(fed, like, strict=True)],
            angles, at,
        ):  # fmt: skip
            norms = tuple(layer.get_submodule(name) for name in names)
            rope = Rope(angles, turn, *map(_own_forward, norms))
            return LayerTurn(rope, norms, names, window, chunk)
    raise ValueError(f"layer {number} rotates queries and keys in a way that is not known")


def _same(found: LayerTurn, layer: nn.Module) -> LayerTurn:
    """Return what a layer does that is like another: its norms are its own."""
    if not found.names:
        return found
    norms = tuple(layer.get_submodule(name) for name in found.names)
    rope = Rope(found.rope.angles, found.rope.turn, *map(_own_forward, norms))
    return replace(found, rope=rope, norms=norms)


def _turn_of(sides: list[Any], angles: Any, at: torch.Tensor) -> Turn | None:
    for pairs, last, backwards in product((False, True), repeat=3):
        turn = Turn(pairs, last, backwards)
        try:
            if all(_near(_turned(turn, before, angles, at), after) for before, after in sides):
                return turn
        except RuntimeError:  # more angles than dimensions
            continue
    return None


def _turned(turn: Turn, x: torch.Tensor, angles: Any, at: torch.Tensor) -> torch.Tensor:
    cos, sin = angles(x, at)
    return turn(x, cos[:, None], sin[:, None])


def _near(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    limit = CLOSE.get(other.dtype, 1e-3)
    return bool((one - other).abs().amax() <= limit * other.abs().amax())


def _like(x: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    """Return heads and tokens in the order of `[batch, heads, tokens, head_dim]`."""
    return x if x.shape == heads.shape else x.transpose(1, 2)


def _own_forward(norm: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    return type(norm).forward.__get__(norm)


def _kind(config: PreTrainedConfig, number: int) -> str | None:
    kinds = getattr(config, "layer_types", None)
    return kinds[number] if kinds else None


def _reach(config: PreTrainedConfig, number: int, seen: Seen) -> tuple[int | None, int | None]:
    """Return the window and the chunk of a layer, as it asks for them or its config says."""
    kind = _kind(config, number)
    if kind == CHUNKED:
        return None, int(config.attention_chunk_size)
    window = seen.named.get("sliding_window")
    if kind == SLIDING:
        window = window or getattr(config, "sliding_window", None)
    return (int(window) if window else None), None
