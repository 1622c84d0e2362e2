"""What every method owes (`ctxbench/methods/base.py`) before a request: its file and its models."""

from __future__ import annotations

import inspect
import json
import math
import re
import tempfile
from dataclasses import MISSING, fields
from typing import Any

import torch

from ctxbench.core.refused import PREFIX
from ctxbench.methods.attach import method_of
from ctxbench.methods.base import Method
from ctxbench.methods.record import Record, base_config, read_record, write_record
from ctxbench.methods.registry import get_method, method_class
from ctxbench.methods.rotary import rotary_dim
from ctxbench.models.loading import extend, load_model, save_model
from ctxbench.validate.checks import Broken, Checks, NotApplicable
from ctxbench.validate.method_subject import ROUNDING, Subject, compare, logits
from ctxbench.validate.tiny import WINDOW, tiny_config, tiny_tokenizer, tokens

CHECKS = Checks()
_OWN_HOOKS = ("encode", "edit_batch", "trainable")
"""Hooks by which a method may change what is read or trained, and no logits of given tokens."""


# ------------------------------------------------------------------- the file


@CHECKS.add(
    "write a module docstring (what it does, the formula, a link to the paper, reference code and "
    "its commit), a class docstring, and a line for each option under 'Attributes:'."
)
def documented(subject: Subject) -> None:
    """The docstring names a source, and every option is described."""
    cls = method_class(subject.method.name)
    module = inspect.getmodule(cls)
    text = (inspect.getdoc(module) if module else None) or ""
    if not re.search(r"https?://|\b(19|20)\d\d\b", text):
        raise Broken("the module docstring names no source: neither a link nor a year")
    described = "\n".join(c.__doc__ or "" for c in cls.__mro__ if issubclass(c, Method))
    missing = [
        option for option in subject.method.options()
        if not re.search(rf"^\s+{option}: \S", described, re.MULTILINE)
    ]  # fmt: skip
    if missing:
        raise Broken(f"options without a description: {', '.join(missing)}")
    if (cls.__dict__.get("__doc__") or f"{cls.__name__}(").startswith(f"{cls.__name__}("):
        raise Broken(f"the class {cls.__name__} has no docstring")


@CHECKS.add(
    "decorate the class with @dataclass(frozen=True, kw_only=True), annotate every option, give "
    "each a default (None for one that `resolve` fills in), and keep to numbers, strings, booleans "
    "and tuples of them."
)
def options(subject: Subject) -> None:
    """It is a frozen, keyword-only dataclass whose options survive config.json."""
    cls = method_class(subject.method.name)
    parameters = cls.__dict__.get("__dataclass_params__")
    own = [f for f in fields(cls) if f.name in inspect.get_annotations(cls)]
    if parameters is None or not parameters.frozen or not all(f.kw_only for f in own):
        raise Broken(f"{cls.__name__} is no @dataclass(frozen=True, kw_only=True) itself")
    bare = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    if bare:
        raise Broken(f"options without a default: {', '.join(bare)}")
    method = subject.method
    record = Record(method=method.name, options=method.options(), original_length=WINDOW)
    config = tiny_config(subject.architecture)
    write_record(config, record)
    raw = json.loads(json.dumps(getattr(config, "ctxbench")))  # noqa: B009
    again = get_method(method.name, **raw["options"], length=method.length)
    if again != method:
        raise Broken(f"options written as JSON and read again give {again}, not {method}")


# ------------------------------------------------------------------ the model


@CHECKS.add(
    "give `scaled(config, current_length)`, which returns a float64 tensor of one frequency for "
    "each rotary pair, in radians per token, and the factor on cos and sin (1.0: none).",
    basic=True,
)
def frequencies(subject: Subject) -> None:
    """There is one finite frequency for each rotary pair, in float64, and a scaling."""
    method, config = subject.method, tiny_config(subject.architecture)
    if type(method).frequencies is Method.frequencies:
        raise NotApplicable("it leaves the frequencies alone")
    pairs = rotary_dim(config) // 2
    for length in (WINDOW // 2, 3 * WINDOW):
        found = method.frequencies(config, length)
        if not isinstance(found, tuple) or len(found) != 2:
            raise Broken(f"a {type(found).__name__} came, not two values")
        theta, scaling = found
        if not isinstance(theta, torch.Tensor) or list(theta.shape) != [pairs]:
            shape = list(getattr(theta, "shape", [])) or type(theta).__name__
            raise Broken(f"frequencies {shape} at length {length}; the model has {pairs} pairs")
        if theta.dtype != torch.float64:
            raise Broken(f"frequencies are {theta.dtype}, not float64")
        if not theta.isfinite().all() or not 0 < scaling < math.inf:
            raise Broken(f"at length {length} a frequency or the scaling {scaling} is not finite")


@CHECKS.add(
    "in edit_config merge into config.rope_parameters (`{**old, **new}`) and set "
    "max_position_embeddings to self.length; in frequencies use `base_config(config)` and "
    "`original_length(config)`, which the record answers after the edit."
)
def config(subject: Subject) -> None:
    """The config before and after the edit agree, and hold the extended window."""
    before, after, method = tiny_config(subject.architecture), subject.model.config, subject.method
    if after.max_position_embeddings != method.length:
        raise Broken(
            f"max_position_embeddings is {after.max_position_embeddings}, not the method's length "
            f"{method.length}"
        )
    lost = set(before.rope_parameters) - set(after.rope_parameters)
    if lost:
        raise Broken(f"edit_config lost {', '.join(sorted(lost))} of rope_parameters")
    if method.resolve(base_config(after)) != method:
        raise Broken("resolve() on the extended config gives other options than on the base")
    if type(method).frequencies is Method.frequencies:
        return
    for length in (WINDOW // 2, WINDOW, WINDOW + 1, 3 * WINDOW):
        one, two = method.frequencies(before, length), method.frequencies(after, length)
        if not torch.equal(one[0], two[0]) or one[1] != two[1]:
            raise Broken(f"frequencies at length {length} differ before and after edit_config")


@CHECKS.add(
    "look whether the hook that should do it is called: `scaled`, `plan` or `attend`, `encode`, "
    "`edit_batch`, `trainable`. A control on purpose derives from ctxbench's `none`."
)
def extends(subject: Subject) -> None:
    """A text beyond the window is computed otherwise than without the method, or trained so."""
    cls = type(subject.method)
    if issubclass(cls, method_class("none")):
        raise NotApplicable("it is a control: it derives from `none`")
    ids = tokens(1, subject.length)
    plain = logits(extend(subject.base(), "none", length=subject.length), ids)
    found = logits(subject.model, ids)[..., : plain.shape[-1]]
    if float((found - plain).abs().max()) > ROUNDING:
        return
    in_training = [
        hook for hook in _OWN_HOOKS if getattr(cls, hook, None) is not getattr(Method, hook)
    ]
    if not in_training:
        raise Broken(
            f"logits of a text of {subject.length} tokens are the base model's, and nothing is "
            "changed in training either"
        )


@CHECKS.add("look for a division by (factor - 1) or a term that does not vanish at factor 1.")
def identity(subject: Subject) -> None:
    """With factor (or alpha) 1 the logits within the window are the base model's."""
    names = [name for name in ("factor", "alpha") if name in subject.method.options()]
    if not names:
        raise NotApplicable("no option 'factor' or 'alpha'")
    plain: dict[str, Any] = {"length": subject.length, names[0]: 1}
    for given in (plain, {**subject.options, **plain}):
        try:
            model = extend(subject.base(), subject.method.name, **given)
        except ValueError as error:
            refused = error
            continue
        ids = tokens(2, WINDOW)
        with torch.no_grad():
            expected = subject.base()(ids).logits
        compare(logits(model, ids), expected, f"{names[0]}=1 against the base model")
        return
    raise NotApplicable(f"{names[0]}=1 is refused: {refused}")


@CHECKS.add("name every tensor the method adds in state_tensors; keep options in the record.")
def save_load(subject: Subject) -> None:
    """Saving and loading give equal logits; plain transformers gives them too, or refuses."""
    from transformers import AutoModelForCausalLM

    model, tokenizer = subject.extended(), tiny_tokenizer()
    method_of(model).edit_tokenizer(tokenizer)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # as if trained: what starts at zero would be saved by accident
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    ids = tokens(2, 100)
    expected = logits(model, ids)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, tokenizer, folder)
        again, _ = load_model(folder)
        compare(logits(again, ids), expected, "loaded against saved", atol=0)
        if read_record(again.config) != read_record(model.config):
            raise Broken("the record read again differs from the one written")
        refused = None
        try:
            plain = AutoModelForCausalLM.from_pretrained(folder)
        except Exception as error:  # transformers: KeyError or ValueError
            refused = str(error)
        if not method_of(model).plain_checkpoint(model.config):
            if refused is None or f"{PREFIX}method_{method_of(model).name}" not in refused:
                raise Broken("plain transformers opens the checkpoint and computes something else")
        elif refused is not None:
            raise Broken(f"plain_checkpoint is true, but plain transformers says: {refused}")
        else:
            with torch.no_grad():
                compare(plain(ids).logits, expected, "plain transformers against ours", atol=0)


@CHECKS.add("undo in release_model what edit_model did, hooks and replaced modules included.")
def release(subject: Subject) -> None:
    """Taken out again, it leaves the base model as it was."""
    ids = tokens(2, WINDOW)
    expected = logits(extend(subject.base(), "none"), ids)
    model = extend(subject.extended(), "none", override=True, length=WINDOW)
    found = logits(model, ids)
    compare(found[..., : expected.shape[-1]], expected, "after release against the base", atol=0)
