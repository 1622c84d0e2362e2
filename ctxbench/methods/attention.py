"""The hook into transformers' attention.

By three public interfaces, no modeling file: the rotary module is replaced by one that rotates
nothing, so that queries and keys reach the cache and the attention function as projected; one
function is registered with `AttentionInterface`; and a forward pre-hook on the base model, which
sees padding mask and cache together, tells that function where each token of a row stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers import AttentionInterface, DynamicCache
from transformers.masking_utils import AttentionMaskInterface

from ctxbench.methods.base import Method, default_length
from ctxbench.methods.bounded import BoundedCache, place_in_row
from ctxbench.methods.cache import RotatedLayer, use_rotated_layers
from ctxbench.methods.extension import ForwardInputs, extension_of
from ctxbench.methods.kernels.attend import attend
from ctxbench.methods.kernels.plan import AttentionPlan
from ctxbench.methods.kernels.rope import Rope
from ctxbench.methods.record import original_length
from ctxbench.methods.rotary import KeepFloat32, check_rotary

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.cache_utils import Cache
    from typing_extensions import Self

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
        hook, layers = call.hook, call.cache.layers if call.cache else []
        layer = layers[call.layer] if call.layer < len(layers) else None
        if query.shape[2] == 1 and isinstance(layer, RotatedLayer):
            return layer.attend_one(hook.plan, hook.rope, query, call.positions, call.scale)
        return attend(hook.plan, hook.rope, query, key, value, call.positions, call.scale)

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Set `length`; refuse models whose attention cannot be replaced by a plan."""
        check_rotary(config)
        check_full_attention(self, config)
        return super().resolve(config)

    def edit_model(self, model: PreTrainedModel) -> None:
        """Install the hook."""
        base: Any = model.base_model
        hook = AttentionHook(self, base.rotary_emb, model.config)
        extension = extension_of(model)
        extension.replace_rotary(model, IdentityRotary(hook.rope.rotary))
        begin = partial(_begin_forward, hook)
        extension.hooks.append(base.register_forward_pre_hook(begin, with_kwargs=True))
        AttentionInterface.register(IMPLEMENTATION, _attention)
        AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
        extension.replace_attention(model, IMPLEMENTATION)


class AttentionHook:
    """What a model's attention is replaced by: the method and the model's rotary embedding."""

    def __init__(
        self, method: AttentionMethod, rotary: nn.Module, config: PreTrainedConfig
    ) -> None:
        self.method = method
        self.rope = Rope(rotary if isinstance(rotary, KeepFloat32) else KeepFloat32(rotary))
        self.plan = method.plan(config)


@dataclass(frozen=True)
class AttentionCall:
    """One forward pass, as the attention of one layer sees it.

    Attributes:
        hook: of the model.
        positions: `[batch or 1, tokens]` int64, which token of its row each key is; -1 for padding.
        cache: keys and values of earlier tokens, or None.
        layer: index of the layer.
        scale: on the scores.
        training: whether the model is in training mode.
    """

    hook: AttentionHook
    positions: torch.Tensor
    cache: Any = None
    layer: int = 0
    scale: float = 1.0
    training: bool = False


class IdentityRotary(nn.Module):
    """Stands in for the rotary module and rotates nothing; it keeps the real one for the method."""

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary = rotary

    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos = 1 and sin = 0, `[batch, length, rotary_dim]` in the dtype of `x`."""
        cos, _ = self.rotary(x, position_ids[:1, :1])
        shape = (*position_ids.shape, cos.shape[-1])
        return x.new_ones(shape), x.new_zeros(shape)


def check_full_attention(method: Method, config: PreTrainedConfig) -> None:
    """Refuse a model with sliding layers, or with frequencies that move with the length.

    Raises:
        ValueError: saying what it has and what to do.
    """
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False:
        sliding = None
    if sliding or layers != {"full_attention"}:
        raise ValueError(
            f"method={method.name} decides itself which tokens are seen, but this model has a "
            f"sliding window of {sliding} tokens of its own (layers: {', '.join(sorted(layers))}). "
            "Use a model with full attention, or set sliding_window to null in its config.json if "
            "the window is longer than every text."
        )
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
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
    call = AttentionCall(
        hook=ctxbench.hook,
        positions=ctxbench.positions.to(query.device),  # layers may be on several devices
        cache=ctxbench.cache,
        layer=module.layer_idx,  # type: ignore[arg-type]
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        training=module.training,
    )
    output = call.hook.method.attend(call, query, key, value)
    return output.transpose(1, 2).contiguous(), None


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
    return args, {**kwargs, "ctxbench": AttentionCall(hook, positions, cache)}


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
