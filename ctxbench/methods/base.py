"""The contract of a context-extension method.

A method is a frozen, keyword-only dataclass whose fields are its options, in a file of its own.
It overrides the hooks it needs and nothing else; no other code knows its name.
"""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ctxbench.core.settings import Length
from ctxbench.methods.extension import extension_of
from ctxbench.methods.record import original_length
from ctxbench.methods.rope_settings import own_length, rope_settings

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Self

_NAME = re.compile(r"[a-z0-9_-]+")


@dataclass(frozen=True, kw_only=True)
class Method:
    """What every extension method declares and may override.

    Life of a method. `get_method` makes it from options. `resolve(config)` fills the options that
    depend on the model (a factor from the length). Then, in this order: `edit_config` before the
    weights exist, `edit_tokenizer`, `edit_model` after they are loaded. While it serves, every
    request runs inside `begin_request`. While it trains, every batch passes `edit_batch` and
    `trainable` chooses the parameters.

    The two hardest customers, and how they enter without their names appearing anywhere else:

    *Landmark attention* adds a token (`edit_tokenizer`; `edit_model` resizes the embedding and
    installs the attention), inserts it after every 63 tokens in training (`edit_batch`) and at
    inference (`encode`: `start` is how many of the user's tokens are cached already, so chunked
    prefill and decoding insert at the same places; `reads` maps logits back to the user's own
    tokens), keeps its memory of blocks in the key-value cache, that is per request, and returns
    None from `reuse_key` where a prefix may not be shared.

    *CLEX* has trained tensors (`edit_model` installs a rotary module that owns them;
    `state_tensors` has them saved beside the weights and loaded again), draws a random stretch and
    random positions per training step (`edit_batch` with its generator, a function of the seed and
    the step), and frequencies that change with the request (`begin_request` pins the final length
    of every row; `reuse_key` is the integer stretch of that length, so requests of one stretch
    share cached keys and others do not).

    Attributes:
        length: the window at evaluation, in tokens. None: the record's trained length, else the
            model's own window.
    """

    length: Length | None = None

    name: ClassVar[str] = ""
    """As users type it, from the class statement: `class YaRN(PositionMethod, name="yarn")`.

    Empty for a class that is only a base of others.
    """
    head_blocks: ClassVar[int] = 1
    """Equal blocks of query heads that are treated differently; processes share each of them."""
    exact: ClassVar[bool] = True
    """Whether every token attends to every earlier token."""
    needs_training: ClassVar[bool] = False
    """Whether the method is meaningless on a model that was not trained with it."""
    own_attention: ClassVar[bool] = False
    """Whether the method computes attention itself (then a kernel cannot be chosen beside it)."""
    own_scaling: ClassVar[bool] = True
    """Whether the method sets the rotary frequencies (then it refuses a model scaled already)."""

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        """Take the name from the class statement; it is not inherited."""
        super().__init_subclass__(**kwargs)
        if name is not None:
            cls.name = check_name(name, f"class {cls.__name__}: ")
        elif "name" not in cls.__dict__:  # dataclass(slots=True) makes the class a second time
            cls.name = ""

    # ---------------------------------------------------------------- options

    def options(self) -> dict[str, Any]:
        """Return the options of this method, without `length`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "length"}

    def resolve(self, config: "PreTrainedConfig") -> "Self":
        """Return a copy whose `length` is set and whose options are complete for this model.

        Raises:
            ValueError: the options make no sense, alone or for this model.
        """
        return replace(self, length=self.length or default_length(config))

    def neutral(self, config: "PreTrainedConfig") -> "Method | None":
        """Return the setting at which this method must equal the plain model on a short text.

        It is proven whenever the method is attached (`methods/proof.py`). `self` is resolved.

        Args:
            config: of the base model.

        Returns:
            A resolved method; None: there is none, and nothing is proven.
        """
        return None

    def for_training(self, config: "PreTrainedConfig") -> "Self":
        """Return the method as the paper trains it, `length` being the training length."""
        return self

    # ------------------------------------------------------- making the model

    def edit_config(self, config: "PreTrainedConfig") -> None:
        """Edit the config in place, before the weights exist.

        Merges into `rope_parameters`, never replaces it, and sets `max_position_embeddings` to
        the extended length. The record is written by the caller.
        """
        if rope_settings(config).get("rope_type") == "dynamic":
            return  # of the model's own, which sets in beyond this window
        config.max_position_embeddings = self.length or default_length(config)

    def edit_tokenizer(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Add the method's tokens, if it has any."""

    def edit_model(self, model: "PreTrainedModel") -> None:
        """Install what the method needs in a loaded model: a rotary module, an attention."""

    def release_model(self, model: "PreTrainedModel") -> None:
        """Undo `edit_model`, so that another method can be installed in the same model.

        What was replaced through the model's `Extension` is put back here.
        """
        extension_of(model).undo(model)

    def state_tensors(self, model: "PreTrainedModel") -> dict[str, "torch.Tensor"]:
        """Return the method's own tensors by name; they are saved beside the weights.

        The loader copies saved values into these very tensors after `edit_model`.
        """
        return {}

    def plain_checkpoint(self, config: "PreTrainedConfig") -> bool:
        """Return whether plain transformers computes the same logits from a saved checkpoint."""
        return False

    # ---------------------------------------------------------------- serving

    def frequencies(
        self, config: "PreTrainedConfig", current_length: int
    ) -> tuple["torch.Tensor", float]:
        """Return the rotary frequencies at a length.

        Args:
            config: of the model, before or after `edit_config`; the two give equal results.
            current_length: final length of the request in tokens, prompt and new tokens.

        Returns:
            Inverse frequencies `[rotary_dim / 2]` in float64, radians per token, and the factor
            that multiplies cos and sin.

        Raises:
            NotImplementedError: the method is not a position method.
        """
        raise NotImplementedError(f"{self.name} is not a position method: it has no frequencies")

    def begin_request(
        self, model: "PreTrainedModel", lengths: Sequence[int]
    ) -> AbstractContextManager:
        """Return a context in which `model` serves one batch of requests.

        Args:
            model: the model this method was installed in.
            lengths: final length of each batch row in tokens, without padding: context and
                continuation for a log-likelihood, own prompt and new tokens for generation.

        A row's result never depends on the other rows or on earlier requests.
        """
        return nullcontext()

    def encode(self, ids: Sequence[int], start: int) -> tuple[list[int], list[int]]:
        """Return what is really fed to the model for the user's tokens.

        Args:
            ids: the user's next tokens.
            start: how many of the user's tokens are cached already.

        Returns:
            The tokens to feed, and for each of the user's tokens the index among the fed ones
            whose logit predicts what follows it.
        """
        return list(ids), list(range(len(ids)))

    def reuse_key(self, config: "PreTrainedConfig", length: int) -> object | None:
        """Return a key such that requests with equal keys may share cached keys and values.

        Args:
            config: of the model.
            length: final length of the request in tokens.

        None means never. A method whose cached keys do not depend on the final length returns a
        constant.
        """
        return 0

    @property
    def cacheable(self) -> bool:
        """Whether keys cached earlier stay right while a request grows.

        Where it is false, generation recomputes the whole sequence at each step.
        """
        return True

    # --------------------------------------------------------------- training

    def training_span(self, length: int) -> int:
        """Return over how many tokens attention runs in a training row of `length` tokens."""
        return length

    def edit_batch(
        self, batch: dict[str, "torch.Tensor"], generator: "torch.Generator"
    ) -> dict[str, "torch.Tensor"]:
        """Return the training batch as the method wants it.

        Args:
            batch: `input_ids`, `labels` `[batch, length]` and what else the data gave.
            generator: the only source of randomness; a function of the seed and the step.
        """
        return batch

    def trainable(self, model: "PreTrainedModel") -> "nn.Module":
        """Return the model to train, with `requires_grad` set; wraps it by PEFT where that fits."""
        return model


def check_name(name: object, place: str) -> str:
    """Return a method's name.

    Raises:
        ValueError: it has other characters than a command line and a composition can carry.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{place}name={name!r} is no name of a method; allowed are small letters, digits, '_' "
            "and '-'. Give such a name."
        )
    return name


def default_length(config: "PreTrainedConfig") -> int:
    """Return the window used when no length is given: what the config says it can hold.

    A config may name YaRN beside the window from before it, as the instructions for Qwen have it;
    then it is factor times that window.
    """
    window = own_length(config)
    scaling = rope_settings(config)
    original, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    if scaling.get("rope_type") == "yarn" and original == window and factor:
        return int(original * factor)
    return window


def length_ratio(method: Method, config: "PreTrainedConfig", option: str) -> float:
    """Return `length / original length`, the default of an interpolation factor.

    It is 1 where the length is no longer than the window: nothing is interpolated, as in LCEG's
    fine-tune.py:147, never stretched.

    Raises:
        ValueError: neither the option nor a length was given.
    """
    original = original_length(config)
    length = method.length or default_length(config)
    if method.length is None and length == original:
        raise ValueError(
            f"method={method.name} was given neither '{option}' nor 'length', so it would change "
            f"nothing (the model's window is {original}). Give length=N with N > {original}, or "
            f"{option}=X."
        )
    return max(length / original, 1.0)


def check_positive(method: Method, **minimum: float) -> None:
    """Check that options are at least a minimum where they are given.

    Raises:
        ValueError: naming the option, its value and the minimum.
    """
    for name, low in minimum.items():
        value = getattr(method, name)
        if value is not None and not value >= low:
            raise ValueError(
                f"method={method.name}: {name}={value!r} is not allowed; it must be at least "
                f"{low:g}. Give a larger {name} or leave it out."
            )


def describe(method: Method) -> str:
    """Return `name(option=value, ...)` for messages and model cards."""
    given = {"length": method.length, **method.options()}
    shown = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
    return f"{method.name}({shown})"
