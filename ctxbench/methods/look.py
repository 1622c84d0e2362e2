"""Running a model on a few tokens and few layers, to see what it does.

Of layers that are alike (the same modules with the same settings) the first one runs for all. Each
gets the same input in every run, so that what one does is seen alone. Small layers run in float32,
whatever the model was loaded in; nothing of the model stays changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AttentionInterface, DynamicCache
from transformers.masking_utils import AttentionMaskInterface

from ctxbench.core.compat.accelerate import is_placed
from ctxbench.core.compat.torch import hooks_on
from ctxbench.core.compat.transformers import attention_of
from ctxbench.methods.anatomy import attention_modules, decoder_layers, text_part
from ctxbench.methods.rope_settings import own_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 16
"""At most; never more than the model's window."""
CAST = 256 * 2**20
"""Parameters of the layers that run, up to which they run in float32."""
_PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_IMPLEMENTATION = "ctxbench_look"
_NUMBERS = ("layer_idx", "layer_id", "layer_number", "training")
Outputs = dict[tuple[int, str], torch.Tensor]
"""What attention gave, `[1, tokens, width]`, by layer and name of the module in it."""


class _Enough(Exception):
    """The last layer that matters has run."""


@dataclass
class Seen:
    """What the attention of one layer was handed.

    Attributes:
        query: `[1, heads, tokens, head_dim]`, as it scores.
        key: `[1, kv_heads, tokens, head_dim]`.
        named: other arguments that are not None, but for masks and dropout.
        norms: input and output of each norm in the attention module, by its name.
    """

    query: torch.Tensor
    key: torch.Tensor
    named: dict[str, Any]
    norms: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


class Look:
    """A model that can be run on a few tokens.

    Attributes:
        layers: all decoder layers.
        alike: for each layer the number of the one that runs for it.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.part = model, text_part(model)
        self.layers = list(decoder_layers(model))
        first: dict[object, int] = {}
        self.alike = [
            first.setdefault(_signature(layer, number, self.part.config), number)
            for number, layer in enumerate(self.layers)
        ]
        self.run_layers = sorted(set(self.alike))
        self._inputs: dict[int, torch.Tensor] = {}
        self._formats: dict[type, Any] = {}

    @property
    def in_memory(self) -> bool:
        """Whether the weights are there: not on the meta device, not sharded away."""
        embedding = self.model.get_input_embeddings()
        some = [p for number in self.run_layers for p in self.layers[number].parameters()]
        return all(p.device.type != "meta" and p.numel() for p in [*embedding.parameters(), *some])

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Make everything ready for several runs: evaluation mode, and float32 where that fits."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(_evaluating(self.model))
            if self._casts():
                stack.enter_context(self._in_float32())
            yield

    def attention(self, *, decoded: bool = False) -> Outputs:
        """Run the model and return what its attention modules give.

        The first run decides what every layer gets in all later ones.

        Args:
            decoded: the last token alone, after a cache of the others.
        """
        tokens = self._tokens()
        if not decoded:
            return self._outputs(tokens, 0, None)
        cache = DynamicCache(config=self.part.config)
        first = self._outputs(tokens[:, :-1], 0, cache)
        last = self._outputs(tokens[:, -1:], tokens.shape[1] - 1, cache)
        return {place: torch.cat((first[place], last[place]), dim=1) for place in last}

    def scores_of(self) -> dict[int, Seen]:
        """Return what the attention of each layer is handed, by layer; the others have none.

        Raises:
            ValueError: the model takes no attention function.
        """
        seen: dict[int, Seen] = {}
        norms: dict[int, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}

        def look(
            module: nn.Module,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            attention_mask: torch.Tensor | None = None,
            **kwargs: Any,
        ) -> tuple[torch.Tensor, None]:
            named = {k: v for k, v in kwargs.items() if v is not None and k != "dropout"}
            number = int(module.layer_idx)  # type: ignore[arg-type]
            if attention_mask is not None:
                named["attention_mask"] = attention_mask
            seen[number] = Seen(query.clone(), key.clone(), named, norms.get(number, {}))
            shape = (*query.shape[:1], query.shape[2], query.shape[1], value.shape[-1])
            return query.new_zeros(shape), None

        AttentionInterface.register(_IMPLEMENTATION, look)
        AttentionMaskInterface.register(_IMPLEMENTATION, lambda *args, **kwargs: None)
        before = attention_of(self.part.config)
        handles = []
        try:
            self.model.set_attn_implementation(_IMPLEMENTATION)
            for number in self.run_layers:
                found = norms.setdefault(number, {})
                for place, module in attention_modules(self.layers[number]):
                    handles += _watch_norms(module, place, found)
            self._outputs(self._tokens(), 0, None)
        finally:
            for handle in handles:
                handle.remove()
            self.model.set_attn_implementation(before)  # type: ignore[arg-type]
        return seen

    def _tokens(self) -> torch.Tensor:
        weight: Any = self.model.get_input_embeddings().weight
        number = min(TOKENS, own_length(self.part.config))
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(int(weight.shape[0]), (1, number), generator=generator)
        return drawn.to(weight.device)

    def _outputs(self, tokens: torch.Tensor, start: int, cache: Any) -> Outputs:
        outputs: Outputs = {}
        with ExitStack() as stack:
            stack.enter_context(self.ready())
            for number, layer in enumerate(self.layers):
                if self.alike[number] != number:
                    stack.enter_context(_forward(layer, _PassOn(self._formats, type(layer))))
            for number in self.run_layers:
                for handle in self._watch(number, outputs, start, start + tokens.shape[1]):
                    stack.callback(handle.remove)
            with suppress(_Enough):
                self.part(input_ids=tokens, past_key_values=cache, use_cache=cache is not None)
        return outputs

    def _watch(self, number: int, outputs: Outputs, start: int, end: int) -> Iterator[Any]:
        layer = self.layers[number]
        modules = attention_modules(layer)

        def feed(_: nn.Module, args: Any, kwargs: Any) -> Any:
            name = "hidden_states" if "hidden_states" in kwargs else None
            given = kwargs[name] if name else args[0]
            known = self._inputs.setdefault(number, given.clone())
            fed = known[:, start:end].to(given.dtype)
            if name:
                return args, {**kwargs, name: fed}
            return (fed, *args[1:]), kwargs

        def note(place: str) -> Any:
            def hook(_: nn.Module, args: Any, output: Any) -> None:
                first = output[0] if isinstance(output, tuple) else output
                outputs[number, place] = first.detach().clone()

            return hook

        def end_of_layer(_: nn.Module, args: Any, output: Any) -> None:
            self._formats[type(layer)] = output
            if not modules:
                note("")(layer, args, output)
            if number == self.run_layers[-1]:
                raise _Enough

        yield layer.register_forward_pre_hook(feed, with_kwargs=True)
        for place, module in modules:
            yield module.register_forward_hook(note(place))
        yield layer.register_forward_hook(end_of_layer)

    def _casts(self) -> bool:
        some = [p for number in self.run_layers for p in self.layers[number].parameters()]
        small = sum(p.numel() for p in some) <= CAST
        plain = all(p.dtype in _PLAIN for p in some)  # not quantised
        half = any(p.dtype.itemsize < 4 for p in some)
        flash = "flash" in str(attention_of(self.part.config))  # takes half precision only
        return small and plain and half and not flash

    @contextmanager
    def _in_float32(self) -> Iterator[None]:
        passed = {id(p) for number, layer in enumerate(self.layers)
                  if self.alike[number] != number for p in layer.parameters()}  # fmt: skip
        embedding = self.model.get_input_embeddings()
        passed |= {id(p) for p in embedding.parameters()}
        cast = [p for p in self.part.parameters() if id(p) not in passed]
        kept = [p.data for p in cast]
        handle = embedding.register_forward_hook(lambda _, args, output: output.float())
        try:
            for parameter in cast:
                if parameter.is_floating_point():
                    parameter.data = parameter.data.float()
            yield
        finally:
            handle.remove()
            for parameter, data in zip(cast, kept, strict=True):
                parameter.data = data


class _PassOn:
    """`forward` of a layer that does not run: hidden states go on as they came."""

    def __init__(self, formats: dict[type, Any], kind: type) -> None:
        self._formats, self._kind = formats, kind

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        output = self._formats.get(self._kind)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


@contextmanager
def _forward(layer: nn.Module, forward: Any) -> Iterator[None]:
    """Give a module another `forward` for a while."""
    own = vars(layer).get("forward")
    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
        if own is not None:
            layer.forward = own


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while, each module back as it was."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _watch_norms(
    module: nn.Module, place: str, found: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> Iterator[Any]:
    """Yield hooks that note input and output of the norms directly in an attention module."""

    def hook(name: str) -> Any:
        def note(_: nn.Module, args: Any, output: Any) -> None:
            found[name] = (args[0].detach().clone(), output.detach().clone())

        return note

    for name, child in module.named_children():
        if "norm" in type(child).__name__.lower():
            yield child.register_forward_hook(hook(f"{place}.{name}"))


def _signature(layer: nn.Module, number: int, config: Any) -> object:
    """Return what is equal for layers that do the same with other weights."""
    modules = tuple(
        (name, type(module), _plain(module), _forward_of(module), hooks_on(module))
        for name, module in layer.named_modules()
    )
    stated = tuple(
        (name, str(value[number]))
        for name, value in sorted(vars(config).items())
        if isinstance(value, list) and len(value) == config.num_hidden_layers
    )
    return modules, stated


def _plain(module: nn.Module) -> tuple[tuple[str, object], ...]:
    simple = (bool, int, float, str, type(None))
    return tuple(
        (name, value)
        for name, value in vars(module).items()
        if isinstance(value, simple) and name not in _NUMBERS
    )


def _forward_of(module: nn.Module) -> object:
    """Return what stands for a `forward` of the instance: None, but where someone put one."""
    own = vars(module).get("forward")
    return None if own is None or is_placed(module) else id(own)
