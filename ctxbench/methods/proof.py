"""The proof at attachment: a method at its neutral setting must compute what the plain model does.

Whenever a method is attached, the model itself runs on at most 16 tokens: as it is, with the
method at the setting at which it changes nothing (factor 1, a window wider than the text), read at
once and decoded after a cache, and with other angles, to see which layers follow them. What the
attention of each layer gives is compared. Of layers that are alike one runs, so that the proof
costs no more on a large model; as it is made anew every time, on the weights and the code that will
be used, there is nothing to keep and nothing that could be out of date.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from ctxbench.core.errors import printable, shown
from ctxbench.methods.anatomy import StandIn, has_rotary, rotary_of, text_config
from ctxbench.methods.base import Method
from ctxbench.methods.extension import Extension, set_extension
from ctxbench.methods.look import Look, Outputs
from ctxbench.methods.record import base_config, layers_kept
from ctxbench.methods.rope_settings import own_length
from ctxbench.methods.rotary import KeepFloat32, PositionMethod, remade

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = {torch.float64: 1e-7, torch.float32: 2e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of a token, of the mean size of tokens; above that of eager and sdpa
(`tests/methods/test_proof.py`)."""
MOVED = 1e-6
"""Least difference, so measured, that says that a layer follows the angles."""

_OF_MODELS = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, AssertionError)
"""What a model's own code raises where something else came than it expects."""
Switch = Literal["on", "off"]


@dataclass(frozen=True)
class Proof:
    """What was proven.

    Attributes:
        state: `passed`, `off` as asked, or why there was none.
        layers: numbers of the layers that the method changes; None: not known.
    """

    state: str
    layers: tuple[int, ...] | None = None


def check_switch(given: object) -> Switch:
    """Return `on` or `off`, as users state it.

    Raises:
        ValueError: it is neither.
    """
    known: dict[str, Switch] = {"on": "on", "true": "on", "off": "off", "false": "off"}
    if (found := known.get(str(given).lower())) is None:
        raise ValueError(
            f"proof={shown(given)} is not allowed; proof=on proves a method when it is attached, "
            "proof=off attaches it unproven, which results say. Give one of the two."
        )
    return found


class Refused(ValueError):
    """A method that does not compute what it must on a model."""


def prove(model: PreTrainedModel, method: Method) -> Proof:
    """Prove a method on a model that has none attached.

    Args:
        model: whose config the method has edited.
        method: resolved.

    A control, which sets no frequencies and no attention, runs on models too that cannot be looked
    at; what it would change wrongly is refused.

    Raises:
        Refused: in one line: model type, method, difference, the layer where it begins.
    """
    config = text_config(model)
    neutral = method.neutral(base_config(config))
    if neutral is None:
        return Proof(f"{method.name} declares no neutral setting")
    try:
        look = Look(model)
        if not look.in_memory:
            return Proof("the weights are not in memory")
        with look.ready(), _quiet(), _base_settings(model):
            return _compared(model, look, method, neutral)
    except Refused:
        raise
    except _OF_MODELS as error:
        if not (method.own_scaling or method.own_attention):  # a control is never refused
            return Proof(f"the model could not be looked at: {_in_one_line(error)}")
        raise Refused(
            f"method={method.name} cannot be attached to this {config.model_type} model: "
            f"{_in_one_line(error)}. `ctxbench ls models` shows what works."
        ) from error


def _compared(model: PreTrainedModel, look: Look, method: Method, neutral: Method) -> Proof:
    config = text_config(model)
    neutral = neutral.resolve(base_config(config))
    rotary = rotary_of(model) if has_rotary(model) else None
    own = _with_rotary(model, rotary, KeepFloat32(remade(rotary, config))) if rotary else None
    with own or nullcontext():
        expected = look.attention()
    attends = not isinstance(neutral, PositionMethod)
    with _attached(model, neutral) as extension:
        for decoded in (False, True) if attends else (False,):
            found = look.attention(decoded=decoded)
            _check(model, method, look, expected, found)
    layers = set(extension.layers)
    if isinstance(method, PositionMethod) and rotary is not None:
        layers = _that_follow(model, look, rotary, expected) - set(layers_kept(config))
    if not layers and (attends or (rotary is not None and method.own_scaling)):
        raise _without_effect(model, method, attends)
    return Proof("passed", tuple(n for n, first in enumerate(look.alike) if first in layers))


def _that_follow(
    model: PreTrainedModel, look: Look, rotary: nn.Module, expected: Outputs
) -> set[int]:
    """Return the layers whose attention changes with the angles of the rotary module."""
    with _with_rotary(model, rotary, _Doubled(remade(rotary, text_config(model)))):
        moved = look.attention()
    return {
        layer
        for (layer, place), output in moved.items()
        if difference(output, expected[layer, place]) > MOVED
    }


def _without_effect(model: PreTrainedModel, method: Method, attends: bool) -> Refused:
    config = text_config(model)
    if attends:
        window = getattr(config, "sliding_window", None)
        why = f"every layer of this {config.model_type} model sees a window of its own"
        do = f"(sliding_window={window}). Give sliding_window=none to run it without, or"
    else:
        why = f"no layer of this {config.model_type} model takes its angles from the model's"
        do = "rotary module."
    return Refused(
        f"method={method.name} would change nothing: {why} {do} "
        f"{'use' if attends else 'Use'} another model."
    )


def _check(
    model: PreTrainedModel, method: Method, look: Look, expected: Outputs, found: Outputs
) -> None:
    for place, output in expected.items():
        limit = TOLERANCE.get(output.dtype, 1e-2)
        off = difference(found[place], output) if place in found else float("nan")
        if not off <= limit:
            layer, module = place
            raise Refused(
                f"method={method.name} is refused on this {text_config(model).model_type} model: "
                f"where it must change nothing it does, by {off:.2g} of what attention "
                f"gives (allowed {limit:.0e}), from layer {layer} on ({module or 'whole layer'}). "
                "Use another method (`ctxbench ls models`), or see it yourself with proof=off."
            )


def _in_one_line(error: BaseException) -> str:
    said = printable(" ".join(str(error).split())).removesuffix(".")[:400]
    return said if isinstance(error, ValueError) else f"its code ends in {said}"


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference of a token, of the mean size of tokens."""
    if found.shape != expected.shape:
        return float("inf")
    found, expected = found.double(), expected.double()
    size = expected.norm(dim=-1).pow(2).mean().sqrt()
    return float((found - expected).norm(dim=-1).amax() / size.clamp(min=1e-12))


class _Doubled(StandIn):
    """A rotary module at twice every position."""

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.own = rotary

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, *args: Any, **more: Any) -> Any:
        return self.own(x, 2 * position_ids, *args, **more)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what transformers says of a scaling by 1."""
    logger = logging.getLogger("transformers.modeling_rope_utils")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def _base_settings(model: PreTrainedModel) -> Iterator[None]:
    """Let the config say for a while what it did before the method edited it."""
    config = text_config(model)
    names = ("max_position_embeddings", "rope_parameters")
    kept = {name: copy.copy(getattr(config, name)) for name in names if hasattr(config, name)}
    base = base_config(config)
    for name in names:
        if hasattr(base, name):
            setattr(config, name, copy.copy(getattr(base, name)))
    try:
        yield
    finally:
        for name in names:
            if name in kept:
                setattr(config, name, kept[name])
            elif name in vars(config):
                delattr(config, name)


@contextmanager
def _attached(model: PreTrainedModel, method: Method) -> Iterator[Extension]:
    config = text_config(model)
    kept = own_length(config), copy.copy(getattr(config, "rope_parameters", None))
    extension = Extension(method)
    set_extension(model, extension)
    try:
        method.edit_config(config)
        method.edit_model(model)
        yield extension
    finally:
        method.release_model(model)
        set_extension(model, None)
        config.max_position_embeddings = kept[0]
        if kept[1] is not None:
            config.rope_parameters = kept[1]


@contextmanager
def _with_rotary(model: PreTrainedModel, own: nn.Module, rotary: nn.Module) -> Iterator[None]:
    extension = Extension(None)
    extension.replace_rotary(model, rotary.to(model.device))
    try:
        yield
    finally:
        extension.undo(model)
