"""The hook into transformers' attention.

By three public interfaces, no modeling file: the rotary module is replaced by one that rotates
nothing, so that queries and keys reach the cache and the attention function as projected; one
function is registered with `AttentionInterface`; and a forward pre-hook on the base model, which
sees padding mask and cache together, tells that function where each token of a row stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers import AttentionInterface, DynamicCache
from transformers.masking_utils import AttentionMaskInterface

from ctxbench.methods.anatomy import (
    attention_modules,
    decoder_layers,
    extended_kind,
    format_of,
    rotary_of,
    text_config,
    text_part,
)
from ctxbench.methods.base import Method, default_length
from ctxbench.methods.bounded import BoundedCache, place_in_row
from ctxbench.methods.cache import RotatedLayer, use_rotated_layers
from ctxbench.methods.extension import ForwardInputs, extension_of
from ctxbench.methods.kernels.attend import attend
from ctxbench.methods.kernels.plan import FULL, AttentionPlan, Branch, chunk, window
from ctxbench.methods.kernels.rope import Rope
from ctxbench.methods.record import original_length
from ctxbench.methods.rope_settings import rope_settings, rotary_dim
from ctxbench.methods.rotary import KeepFloat32, check_rotary, remade
from ctxbench.methods.turns import IdentityRotary, find_turns

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.cache_utils import Cache
    from typing_extensions import Self

NO_ROPE = Rope(None)
"""Until a layer is known."""
_HOOK = "ctxbench_hook"
IMPLEMENTATION = "ctxbench"
"""Our name among transformers' attention implementations."""
MOVING = ("dynamic", "longrope")
"""Rope types of transformers whose frequencies change with the length of a request."""


@dataclass(frozen=True, kw_only=True)
class AttentionMethod(Method):
    """A method that changes which keys a query sees, and at which distance.

    A subclass gives `plan`; one that is no plan overrides `attend`.
    """

    exact: ClassVar[bool] = False
    own_attention: ClassVar[bool] = True
    own_scaling: ClassVar[bool] = False

    def plan(self, config: PreTrainedConfig) -> AttentionPlan:
        """Return the branches of this method for a model."""
        raise NotImplementedError

    def attend(
        self, call: AttentionCall, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Return attention `[batch, heads, new, head_dim]`, scores scaled by `call.scale`.

        Args:
            call: where the tokens stand, the model's rotary embedding, the layer.
            query: `[batch, heads, new, head_dim]`, not rotated; the last `new` tokens.
            key: `[batch, kv_heads, tokens, head_dim]`, not rotated.
            value: `[batch, kv_heads, tokens, head_dim]`.
        """
        layers = call.cache.layers if call.cache else []
        layer = layers[call.layer] if call.layer < len(layers) else None
        one = query.shape[2] == 1 and call.rope.relative
        if one and isinstance(layer, RotatedLayer) and layer.holds(key):
            return layer.attend_one(call.plan, call.rope, query, call.positions, call.scale)
        return attend(call.plan, call.rope, query, key, value, call.positions, call.scale)

    def neutral(self, config: PreTrainedConfig) -> Method | None:
        """Return full attention, installed as this method is."""
        return _Full(length=self.length)

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Set `length`; refuse models without fixed rotary frequencies."""
        check_rotary(config)
        check_fixed(self, config)
        return super().resolve(config)

    def edit_model(self, model: PreTrainedModel) -> None:
        """Install the hook."""
        hook = AttentionHook(self, model)
        extension = extension_of(model)
        extension.replace_rotary(model, hook.still)
        extension.layers = tuple(hook.layers)
        for norm in hook.norms:
            extension.replace_forward(norm, _pass_on)
        for layer in decoder_layers(model):
            for _, module in attention_modules(layer):
                extension.note(module, _HOOK, hook)
        begin = partial(_begin_forward, hook)
        part = text_part(model)
        extension.hooks.append(part.register_forward_pre_hook(begin, with_kwargs=True))
        AttentionInterface.register(IMPLEMENTATION, _attention)
        AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
        extension.replace_attention(model, IMPLEMENTATION)


@dataclass(frozen=True, kw_only=True)
class _Full(AttentionMethod):
    """Full attention through our function: what must change nothing."""

    def plan(self, config: PreTrainedConfig) -> AttentionPlan:
        """Return full attention."""
        return FULL


class AttentionHook:
    """What a model's attention is replaced by.

    Attributes:
        method: with its plan.
        turns: what each layer does besides, by its number.
        still: stands in for the rotary module.
        call: what the last forward pass told the layers.
    """

    def __init__(self, method: AttentionMethod, model: PreTrainedModel) -> None:
        own, config = rotary_of(model), text_config(model)
        if any(buffer.is_meta for buffer in own.buffers()):
            own = remade(own, config)
        rotary = own if isinstance(own, KeepFloat32) else KeepFloat32(own)
        self.method = method
        self.turns = find_turns(model, rotary)
        kind = extended_kind(config)
        self.still = IdentityRotary(rotary, format_of(rotary, rotary_dim(config, kind), kind))
        self.plan = method.plan(config)
        self.call: AttentionCall | None = None

    @property
    def norms(self) -> list[nn.Module]:
        """Modules that the ropes apply instead of the layers."""
        return [norm for turn in self.turns.values() for norm in turn.norms]

    @property
    def layers(self) -> list[int]:
        """The layers that see the whole text, which the method changes."""
        return [number for number, turn in self.turns.items() if turn.whole]

    def plan_of(
        self, layer: int, softcap: float | None, sinks: torch.Tensor | None
    ) -> AttentionPlan:
        """Return what a layer computes: the method's plan, or its own reach.

        Args:
            layer: its number.
            softcap: of its scores.
            sinks: `[heads]`, or None.
        """
        turn = self.turns[layer]
        plan = self.plan
        if turn.window is not None:
            plan = AttentionPlan(branches=(Branch(first=window(turn.window)),))
        elif turn.chunk is not None:
            plan = AttentionPlan(branches=(Branch(first=chunk(turn.chunk)),))
        if softcap is None and sinks is None:
            return plan
        return replace(plan, softcap=softcap, sinks=sinks)


@dataclass(frozen=True)
class AttentionCall:
    """One forward pass, as the attention of one layer sees it.

    Attributes:
        hook: of the model.
        rope: rotation of the layer: `call.rope.query(x, positions)`, `call.rope.key(x, positions)`.
        plan: of the method, for this layer.
        positions: `[batch or 1, tokens]` int64, which token of its row each key is; -1 for padding.
        cache: keys and values of earlier tokens, or None.
        layer: index of the layer.
        scale: on the scores.
        training: whether the model is in training mode.
    """

    hook: AttentionHook
    rope: Rope
    plan: AttentionPlan
    positions: torch.Tensor
    cache: Any = None
    layer: int = 0
    scale: float = 1.0
    training: bool = False


def check_fixed(method: Method, config: PreTrainedConfig) -> None:
    """Refuse a model whose frequencies move with the length.

    Raises:
        ValueError: saying what it has and what to do.
    """
    kind = rope_settings(config).get("rope_type", "default")
    if kind in MOVING:
        raise ValueError(
            f"method={method.name} needs fixed rotary frequencies, but this model has rope_type "
            f"'{kind}', whose frequencies change with the length. Use a model with another "
            "rope_type, or the position methods dynamic_ntk and longrope."
        )


def native_length(method: Method, config: PreTrainedConfig) -> int:
    """Return the original length in tokens, or `length` if that is shorter."""
    return min(original_length(config), method.length or default_length(config))


def check_window(method: Method, window: int) -> int:
    """Return the option `window`, tokens of local attention, that fits into `length`.

    Raises:
        ValueError: it is longer, or nothing is left for it.
    """
    length = method.length or window
    if not 1 <= window <= length:
        raise ValueError(
            f"method={method.name}: window={window} with length={length}; allowed is "
            "1 <= window <= length. Give a shorter window, or a longer length."
        )
    return window


# ------------------------------------------------------------ the hooks


@torch.compiler.disable  # kernels follow lengths and masks: compile what is around them
def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    ctxbench: AttentionCall | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function: hand un-rotated tensors to the method. See `AttentionInterface`."""
    ctxbench = ctxbench or _told_before(module, key)
    if ctxbench is None:
        raise ValueError(
            "The attention of this model was replaced by ctxbench, but the forward pass did not go "
            "through the model itself. Call the model or its base model, not a layer."
        )
    if dropout:
        raise ValueError(
            f"Attention dropout of {dropout} is not supported by the attention methods. Set "
            "attention_dropout to 0 in the config."
        )
    hook, layer = ctxbench.hook, int(module.layer_idx)  # type: ignore[arg-type]
    call = AttentionCall(
        hook=hook,
        rope=hook.turns[layer].rope,
        plan=hook.plan_of(layer, kwargs.get("softcap"), kwargs.get("s_aux")),
        positions=ctxbench.positions.to(query.device),  # layers may be on several devices
        cache=ctxbench.cache,
        layer=layer,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        training=module.training,
    )
    if hook.turns[layer].whole:
        output = hook.method.attend(call, query, key, value)
    else:
        output = attend(call.plan, call.rope, query, key, value, call.positions, call.scale)
    return output.transpose(1, 2).contiguous(), None


def _told_before(module: nn.Module, key: torch.Tensor) -> AttentionCall | None:
    """Return what a forward pass told, for models whose layers do not hand arguments on."""
    hook: AttentionHook | None = getattr(module, _HOOK, None)
    call = hook.call if hook is not None else None
    return call if call is not None and call.positions.shape[1] == key.shape[2] else None


def _pass_on(x: torch.Tensor) -> torch.Tensor:
    return x


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Mask function: positions do what a mask would. See `AttentionMaskInterface`."""


@torch.compiler.disable
def _begin_forward(
    hook: AttentionHook, base_model: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ForwardInputs:
    """Forward pre-hook: tell the layers where each token stands."""
    given = kwargs.get("input_ids", args[0] if args else None)
    given = given if given is not None else kwargs["inputs_embeds"]
    mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    _check_not_packed(mask, kwargs.get("position_ids"))
    cache = kwargs.get("past_key_values")
    use_cache = kwargs.get("use_cache")
    use_cache = base_model.config.use_cache if use_cache is None else use_cache
    if cache is None and use_cache and not base_model.training:
        cache = kwargs["past_key_values"] = DynamicCache(config=base_model.config)
    if isinstance(cache, DynamicCache):
        use_rotated_layers(cache)
    positions = token_positions(mask, given.shape[0], given.shape[1], cache, given.device)
    hook.call = AttentionCall(hook, NO_ROPE, hook.plan, positions, cache)
    return args, {**kwargs, "ctxbench": hook.call}


def _check_not_packed(mask: torch.Tensor | None, position_ids: torch.Tensor | None) -> None:
    if mask is None and position_ids is not None and (position_ids.diff(dim=-1) != 1).any():
        raise ValueError(
            "position_ids that do not count up one by one were given without an attention_mask, as "
            "for packed sequences. The attention methods count the tokens of a row themselves: "
            "give one sequence per row, and an attention_mask [batch, tokens] for padding."
        )


def token_positions(
    mask: torch.Tensor | None, batch: int, new: int, cache: Cache | None, device: torch.device
) -> torch.Tensor:
    """Return which token of its row each cached and new token is, -1 for padding.

    Args:
        mask: padding mask `[batch, tokens]` or None.
        batch: rows.
        new: tokens of each row in this forward pass.
        cache: of earlier tokens, or None.
        device: of the result.

    Returns:
        `[batch, tokens]` int64, or `[1, tokens]` if there is no padding.

    Raises:
        ValueError: a mask or a cache that cannot be served.
    """
    if cache is not None and getattr(cache, "is_compileable", False):
        raise ValueError(
            "The attention methods do not support a static cache. Leave out cache_implementation, "
            "or set it to 'dynamic'."
        )
    tokens = new + (int(cache.get_seq_length()) if cache is not None else 0)
    if mask is not None and (mask.dim() != 2 or mask.shape[1] != tokens):
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}; the attention methods need [batch, "
            f"{tokens}], 1 for tokens and 0 for padding, cached tokens included. Give that."
        )
    if isinstance(cache, BoundedCache):
        real = torch.ones(batch, new) if mask is None else mask[:, -new:]
        positions = cache.begin(real.to(device).bool())
    elif mask is not None:
        positions = place_in_row(mask.to(device).bool())
    else:
        return torch.arange(tokens, device=device)[None]
    return positions if (positions < 0).any() else positions[:1]
