"""Rotary frequencies: the arithmetic, position methods, and the two rotary modules.

`d` is the rotary dimension (32 of 80 for Phi-2, 128 for Llama-2), `b` the base, `C` the original
length. RoPE: Su et al. 2021, https://arxiv.org/abs/2104.09864.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from ctxbench.methods.anatomy import (
    RotaryFormat,
    StandIn,
    decoder_layers,
    extended_kind,
    format_of,
    layer_types,
    rotary_of,
    text_config,
    text_part,
)
from ctxbench.methods.base import Method
from ctxbench.methods.extension import ForwardInputs, extension_of
from ctxbench.methods.record import base_config, layers_kept, original_length
from ctxbench.methods.rope_settings import (
    SCALINGS,
    rope_settings,
    rotary_base,
    rotary_dim,
    set_rope_settings,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel
    from typing_extensions import Self


def inverse_frequencies(dim: int, base: float) -> torch.Tensor:
    """Return `base ** (-2j / dim)` for `j < dim / 2`, `[dim / 2]` float64, radians per token."""
    return base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def ntk_base(base: float, alpha: float, dim: int) -> float:
    """Return the NTK-aware base `b * alpha ** (d / (d - 2))`.

    The fastest pair is unchanged, the slowest is divided by exactly `alpha`.
    Source: bloc97 2023; code jquesnelle/yarn@995db5b
    scaled_rope/LlamaNTKScaledRotaryEmbedding.py:6.
    """
    return base * alpha ** (dim / (dim - 2))


def check_rotary(config: PreTrainedConfig) -> None:
    """Check that a model has rotary frequencies that a method can extend.

    Raises:
        ValueError: it has none; the message says what it has instead.
    """
    kind = getattr(config, "model_type", type(config).__name__)
    parameters = getattr(config, "rope_parameters", None) or {}
    if not rope_settings(config) and any(parameters.values()):
        raise ValueError(
            f"Of this {kind} model only layers that see a window of their own are rotated, so "
            "there is nothing to extend. Use another model, or method=none."
        )
    if not rope_settings(config):
        raise ValueError(
            f"A {kind} model has no rotary position embedding{_instead(config)}. ctxbench extends "
            "RoPE models (Llama, Mistral, Qwen, Gemma, Phi, GPT-NeoX and alike: `ctxbench ls "
            "models`); use one, or method=none."
        )
    if (own := rope_settings(config).get("rope_type", "default")) not in ("default", *SCALINGS):
        raise ValueError(
            f"This {kind} model has rotary frequencies of rope_type '{own}', which ctxbench does "
            "not compute. Use another model, or method=none."
        )
    if "rope_theta" not in rope_settings(config):
        raise ValueError(
            f"The rotary settings of this {kind} model name no rope_theta "
            f"({', '.join(rope_settings(config))}). Restore its config.json, or use method=none."
        )


_RECURRENT = ("state_size", "ssm_state_size", "rescale_every")
"""Settings that recurrent models have (Mamba, RWKV)."""


def _instead(config: PreTrainedConfig) -> str:
    """Return what a model without rotary embedding tells positions by, as far as it says."""
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        return ", but ALiBi's biases on distances"
    if any(getattr(config, name, None) for name in _RECURRENT):
        return ": it is recurrent"
    if getattr(config, "n_positions", None) or hasattr(config, "max_position_embeddings"):
        return ", but learned or fixed embeddings of its positions"
    return ""


@dataclass(frozen=True, kw_only=True)
class PositionMethod(Method):
    """A method that sets rotary frequencies and leaves attention as it is.

    A subclass gives `scaled(config, current_length)`. If transformers has the same frequencies
    under a name of its own, `stock_parameters` returns them and its module is used.
    """

    stock_type: ClassVar[str] = ""
    """transformers' `rope_type` for this method, where it has one."""

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Return a copy with `length` set; refuse a model without rotary embedding."""
        check_rotary(config)
        return super().resolve(config)

    def scaled(self, config: PreTrainedConfig, current_length: int) -> tuple[torch.Tensor, float]:
        """Return frequencies `[d / 2]` float64 and attention scaling; `config` is the base's."""
        raise NotImplementedError(f"{type(self).__name__} gives no scaled(config, current_length)")

    def stock_parameters(self, config: PreTrainedConfig) -> dict[str, Any] | None:
        """Return entries of `rope_parameters` with which transformers computes the same.

        None: it cannot. `config` is the base's.
        """
        return None

    def neutral(self, config: PreTrainedConfig) -> Method | None:
        """Return a method with the base's own frequencies, installed as this one is."""
        return _OwnFrequencies(length=self.length, moving=self.length_dependent)

    def accepted_stock(self, config: PreTrainedConfig) -> dict[str, Any] | None:
        """Return `stock_parameters`, or None where this model's config class refuses them.

        Phi-3's config admits `longrope` only; our own module serves it then, and where some layers
        keep their angles.
        """
        if layers_kept(config) and not layer_types(config):
            return None
        probe = copy.deepcopy(base_config(config))
        stock = self.stock_parameters(probe)
        if stock:
            set_rope_settings(probe, {**rope_settings(probe), **stock})
            probe.max_position_embeddings = self.length
            try:
                probe.validate_rope()
            except (ValueError, TypeError, AttributeError, KeyError):
                return None
        return stock

    @property
    def length_dependent(self) -> bool:
        """Whether the frequencies change with the length of the request."""
        return False

    def frequencies(
        self, config: PreTrainedConfig, current_length: int
    ) -> tuple[torch.Tensor, float]:
        """Return frequencies at a length; see `Method.frequencies`."""
        base = base_config(config)
        return self.resolve(base).scaled(base, int(current_length))

    def edit_config(self, config: PreTrainedConfig) -> None:
        """Merge the scaling into `rope_parameters` and set the window."""
        super().edit_config(config)
        if stock := self.accepted_stock(config):
            set_rope_settings(config, {**rope_settings(config), **stock})

    def edit_model(self, model: PreTrainedModel) -> None:
        """Replace the model's rotary module."""
        old, config = rotary_of(model), text_config(model)
        if self.accepted_stock(config) is not None:
            rotary: nn.Module = KeepFloat32(remade(old, config))
        else:
            rotary = self.make_rotary(config)
            rotary.model_own(KeepFloat32(remade(old, base_config(config))))
        rotary = rotary.to(model.device).train(model.training)
        extension = extension_of(model)
        extension.replace_rotary(model, rotary)
        if self.length_dependent:
            pin_every_forward(model)
        if isinstance(rotary, RequestRotary) and not layer_types(config):
            for number in layers_kept(config):
                own = partial(_own_angles, rotary.own)
                layer = decoder_layers(model)[number]
                extension.hooks.append(layer.register_forward_pre_hook(own, with_kwargs=True))

    def make_rotary(self, config: PreTrainedConfig) -> RequestRotary:
        """Return the module for frequencies that transformers does not have."""
        return RequestRotary(self, config)

    def plain_checkpoint(self, config: PreTrainedConfig) -> bool:
        """Return whether transformers has these frequencies itself."""
        return self.accepted_stock(config) is not None

    def reuse_key(self, config: PreTrainedConfig, length: int) -> object | None:
        """Return the frequencies at this length: requests with equal ones may share keys."""
        if not self.length_dependent:
            return 0
        inv_freq, scale = self.frequencies(config, length)
        return tuple(inv_freq.tolist()), scale

    @contextmanager
    def begin_request(self, model: PreTrainedModel, lengths: Sequence[int]) -> Iterator[None]:
        """Pin the frequencies of each row to its final length, unless they follow each forward."""
        rotary = rotary_of(model)
        if not isinstance(rotary, RequestRotary) or not self.cacheable:
            yield
            return
        before = rotary.pinned
        rotary.pinned = tuple(int(length) for length in lengths)
        try:
            yield
        finally:
            rotary.pinned = before


@dataclass(frozen=True, kw_only=True)
class _OwnFrequencies(PositionMethod):
    """The base's own frequencies through our module: what must change nothing.

    Attributes:
        moving: whether they are asked for anew for every length.
    """

    moving: bool = False

    @property
    def length_dependent(self) -> bool:
        """As stated."""
        return self.moving

    def scaled(self, config: PreTrainedConfig, current_length: int) -> tuple[torch.Tensor, float]:
        """Return the frequencies of the model's base."""
        return inverse_frequencies(rotary_dim(config), rotary_base(config)), 1.0


def remade(rotary: nn.Module, config: PreTrainedConfig) -> nn.Module:
    """Return a model's own rotary module, made anew for a config."""
    inner: Any = rotary.own if isinstance(rotary, KeepFloat32) else rotary
    if isinstance(inner, RequestRotary):
        inner = inner.own.own
    with torch.device("cpu"):  # where it can be looked at, wherever a model is being made
        return type(inner)(config=config)


class KeepFloat32(StandIn):
    """A stock rotary module whose frequencies stay float32 when the model is cast.

    `model.to(torch.bfloat16)` rounds transformers' `inv_freq` buffer by up to 0.4 %, which is
    radians at long positions. Where the model has been cast already, they are computed anew.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        cast = [b for b in inner.buffers() if b.is_floating_point() and b.dtype.itemsize < 4]
        if cast:
            inner = type(inner)(config=inner.config).to(cast[0].device)
        self.own = inner

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        device = fn(torch.empty(0)).device
        move = lambda tensor: tensor.to(device)  # noqa: E731
        return super()._apply(move, recurse)

    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin `[batch, length, d]` in the dtype of `x`."""
        return self.own(x, position_ids, *args, **kwargs)


class RequestRotary(StandIn):
    """Rotary embedding whose frequencies follow each row's final length; it keeps no state.

    Phases are float64. Frequencies are no buffers, so casting the model leaves them exact.
    """

    def __init__(self, method: PositionMethod, config: PreTrainedConfig) -> None:
        super().__init__()
        self.method = method
        self.config = copy.deepcopy(base_config(config))
        self.pinned: tuple[int, ...] | None = None
        """Final length per row, set by `begin_request`."""
        self.current: tuple[int, ...] | None = None
        """Length per row of the forward pass under way, set by a hook on the model."""
        self.format = RotaryFormat()

    def model_own(self, rotary: nn.Module) -> None:
        """State angles as the model's own module does, and let it serve the other layers."""
        kind = extended_kind(self.config)
        self.own = rotary  # for layers that are not extended
        self.format = format_of(rotary, rotary_dim(self.config), kind)

    def lengths(self, position_ids: torch.Tensor) -> tuple[int, ...]:
        """Return the length that sets each row's frequencies."""
        if self.pinned is not None:
            return self.pinned
        if self.current is not None:
            return self.current
        return tuple((position_ids.amax(-1) + 1).tolist())

    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin `[batch, length, d]` in the dtype of `x`.

        Args:
            x: any tensor of the wanted dtype and device.
            position_ids: `[batch or 1, length]`; of a model that reads pictures too three times
                that, all equal.
            layer_type: of a model with settings for each type of layer.
        """
        if layer_type is not None and layer_type != extended_kind(self.config):
            return self.own(x, position_ids, layer_type)
        position_ids = of_text(position_ids)
        lengths = self.lengths(position_ids)
        wanted = sorted(set(lengths))
        tables = [self.table(length) for length in wanted]
        if len(wanted) == 1:  # one base for all rows, whatever their number
            return self.rotation(x, position_ids, tables[0][0][None], tables[0][1])
        rows = torch.tensor([wanted.index(length) for length in lengths])
        rows = rows.repeat_interleave(_beams(len(rows), position_ids, x))
        inv_freq = torch.stack([table for table, _ in tables])[rows]
        scale = torch.tensor([s for _, s in tables], dtype=torch.float64)[rows][:, None, None]
        return self.rotation(x, position_ids, inv_freq, scale)

    def table(self, length: int) -> tuple[torch.Tensor, float]:
        """Return frequencies `[d / 2]` float64 and attention scaling for a request's length."""
        return self.method.frequencies(self.config, length)

    def rotation(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        inv_freq: torch.Tensor,
        scale: float | torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin `[batch, length, d]` in the dtype of `x`, phases in float64.

        Args:
            x: any tensor of the wanted dtype and device.
            positions: `[batch or 1, length]`.
            inv_freq: `[batch or 1, d / 2]`.
            scale: a number, or `[batch, 1, 1]`.
        """
        if isinstance(scale, torch.Tensor):
            scale = scale.to(x.device)
        phase = positions[..., None].to(torch.float64) * inv_freq.to(x.device)[:, None, :]
        return self.format.stated(phase, scale, x.dtype)


def _own_angles(
    own: nn.Module, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ForwardInputs:
    """Forward pre-hook of a layer that keeps its angles.

    Raises:
        ValueError: the model hands its layers no angles by name.
    """
    if "position_embeddings" not in kwargs or kwargs.get("position_ids") is None:
        raise ValueError(
            f"layers=full: a {type(layer).__name__} is handed no angles that could be others than "
            "those of its neighbours. Leave layers out."
        )
    hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    angles = own(hidden, kwargs["position_ids"])
    return args, {**kwargs, "position_embeddings": angles}


def of_text(position_ids: torch.Tensor) -> torch.Tensor:
    """Return positions `[batch, length]` of a text, given once or for time, height and width.

    Raises:
        ValueError: the three differ: it is no text.
    """
    if position_ids.dim() == 2:
        return position_ids
    if bool((position_ids != position_ids[:1]).any()):
        raise ValueError(
            "Positions of pictures were given. Methods extend texts; leave pictures out."
        )
    return position_ids[0]


def _beams(rows: int, position_ids: torch.Tensor, x: torch.Tensor) -> int:
    """Return how many beams stand behind each pinned row."""
    batch = max(position_ids.shape[0], x.shape[0])
    if batch % rows:
        raise ValueError(
            f"The request was begun with {rows} lengths but the batch has {batch} rows. Give "
            "begin_request one final length per row."
        )
    return batch // rows


def pin_every_forward(model: PreTrainedModel) -> None:
    """Let forward passes and `generate` called directly pin the frequencies themselves.

    A forward pass is pinned to its own length, per row by the attention mask; `generate` to prompt
    and new tokens. Inside `begin_request` both leave the pin alone.
    """
    extension = extension_of(model)
    if not extension.pinned:
        hook = text_part(model).register_forward_pre_hook(
            _note_lengths, with_kwargs=True, prepend=True
        )
        extension.hooks.append(hook)
        extension.replace_generate(model, _PinnedGenerate(model))


class _PinnedGenerate:
    """`model.generate` inside `begin_request` with the lengths its own arguments imply."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.generate: Any = model.generate

    def __call__(self, inputs: torch.Tensor | None = None, **kwargs: Any) -> Any:
        model, method = self.model, extension_of(self.model).method
        rotary = rotary_of(model)
        prompt = inputs if inputs is not None else kwargs.get("input_ids")
        if not method.cacheable:
            kwargs["use_cache"] = False
        if prompt is None or rotary.pinned is not None:
            return self.generate(inputs, **kwargs)
        with method.begin_request(model, _final_lengths(model, prompt, kwargs)):
            return self.generate(inputs, **kwargs)


def _final_lengths(
    model: PreTrainedModel, prompt: torch.Tensor, kwargs: dict[str, Any]
) -> list[int]:
    """Return own prompt + new tokens per row, without padding."""
    config = kwargs.get("generation_config") or model.generation_config
    width = prompt.shape[1]
    new = kwargs.get("max_new_tokens")
    if new is None and "max_length" not in kwargs:
        new = getattr(config, "max_new_tokens", None)
    if new is None:
        total = kwargs.get("max_length") or getattr(config, "max_length", None) or 20
        new = max(total - width, 0)
    mask = kwargs.get("attention_mask")
    own = mask.sum(-1).tolist() if mask is not None else [width] * prompt.shape[0]
    return [int(length) + new for length in own]


def _note_lengths(
    base_model: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Forward pre-hook: note each row's own length, cached tokens included, padding excluded."""
    rotary = rotary_of(base_model)
    mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    if isinstance(mask, torch.Tensor) and mask.dim() == 2:
        rotary.current = tuple(mask.sum(-1).tolist())
        return
    inputs = kwargs.get("input_ids", args[0] if args else None)
    inputs = inputs if inputs is not None else kwargs["inputs_embeds"]
    cache = kwargs.get("past_key_values")
    total = inputs.shape[1] + (int(cache.get_seq_length()) if cache is not None else 0)
    rotary.current = (total,) * inputs.shape[0]


def factor_of_length(
    method: PositionMethod, config: PreTrainedConfig, current_length: int
) -> float:
    """Return `max(current_length / C, 1)`, the growth of the window a request needs."""
    return max(current_length / original_length(config), 1.0)
