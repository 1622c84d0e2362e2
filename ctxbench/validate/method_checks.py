"""What every method owes (`ctxbench/methods/base.py`), checked on tiny random models in memory."""

from __future__ import annotations

import copy
import inspect
import json
import math
import random
import re
import tempfile
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ctxbench.methods.attach import method_of
from ctxbench.methods.base import Method, describe
from ctxbench.methods.record import Record, base_config, read_record, write_record
from ctxbench.methods.registry import get_method, method_class
from ctxbench.methods.rotary import rotary_dim
from ctxbench.models.loading import extend, load_model, save_model
from ctxbench.refused import PREFIX
from ctxbench.validate.checks import Broken, Checks, NotApplicable
from ctxbench.validate.tiny import WINDOW, tiny_config, tiny_model, tiny_tokenizer, tokens

CHECKS = Checks()
ROUNDING = 5e-5
"""float32 logits of size up to 10: the same sums in another order."""


@dataclass(frozen=True)
class Subject:
    """A method with options on one architecture.

    Attributes:
        name: of the method or preset.
        options: of the method.
        architecture: of the tiny model, a key of `tiny.ARCHITECTURES`.
        length: window at evaluation, tokens; the tiny models hold 64 without the method.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    architecture: str = "llama"
    length: int = 4 * WINDOW

    def extended(self, **options: Any) -> Any:
        """Return a new tiny model with the method, its options changed by `options`."""
        model = self.base()
        return extend(model, self.name, **{"length": self.length, **self.options, **options})

    def base(self) -> Any:
        """Return a new tiny model without the method."""
        return tiny_model(self.architecture, initializer_range=0.1)

    @cached_property
    def model(self) -> Any:
        """One model with the method, for checks that leave it as it is."""
        return self.extended()

    @property
    def method(self) -> Method:
        """The resolved method of `model`."""
        return method_of(self.model)

    @property
    def title(self) -> str:
        """What is checked, in words."""
        return f"method {describe(self.method)} on a random {self.architecture} of 2 layers"


@torch.no_grad()
def _logits(model: Any, ids: torch.Tensor, length: int | None = None, **kwargs: Any):
    """Return `[batch, new, vocabulary]`, the request's final length pinned."""
    rows = [length or ids.shape[1]] * len(ids)
    with method_of(model).begin_request(model, rows):
        return model(ids, **kwargs).logits


def _compare(found: torch.Tensor, expected: torch.Tensor, what: str, atol: float = ROUNDING):
    difference = float((found - expected).abs().max())
    if not difference <= atol:  # also where it is nan
        raise Broken(f"{what}: logits differ by {difference:.2g} (allowed: {atol:g})")


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
    if not cls.__dict__.get("__doc__") or cls.__doc__.startswith(f"{cls.__name__}("):
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
        _compare(_logits(model, ids), expected, f"{names[0]}=1 against the base model")
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
    expected = _logits(model, ids)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, tokenizer, folder)
        again, _ = load_model(folder)
        _compare(_logits(again, ids), expected, "loaded against saved", atol=0)
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
                _compare(plain(ids).logits, expected, "plain transformers against ours", atol=0)


@CHECKS.add("undo in release_model what edit_model did, hooks and replaced modules included.")
def release(subject: Subject) -> None:
    """Taken out again, it leaves the base model as it was."""
    ids = tokens(2, WINDOW)
    expected = _logits(extend(subject.base(), "none"), ids)
    model = extend(subject.extended(), "none", override=True, length=WINDOW)
    found = _logits(model, ids)
    _compare(found[..., : expected.shape[-1]], expected, "after release against the base", atol=0)


# -------------------------------------------------------------------- serving


@CHECKS.add("follow the first layer's queries and keys: nan mostly comes from a position or mask.")
def runs_at_length(subject: Subject) -> None:
    """A text as long as the window has finite logits."""
    found = _logits(subject.model, tokens(1, subject.length))
    if not torch.isfinite(found).all():
        raise Broken(f"logits of a text of {subject.length} tokens are not finite")


@CHECKS.add(
    "what a key was rotated by must not depend on how many tokens came with it: pin it to the "
    "request's final length in begin_request, or set cacheable to false."
)
def cached(subject: Subject) -> None:
    """Reading in pieces over a cache equals one pass."""
    from transformers import DynamicCache

    if not subject.method.cacheable:
        raise NotApplicable("the method says it is not cacheable")
    model, ids = subject.model, tokens(2, 100)
    expected = _logits(model, ids)
    cache = DynamicCache(config=model.config)
    pieces = ids.split([60, 1, 1, 30, 8], dim=1)
    parts = [_logits(model, p, length=100, past_key_values=cache, use_cache=True) for p in pieces]
    _compare(torch.cat(parts, 1), expected, "pieces over a cache against one pass")


@CHECKS.add(
    "take positions and lengths of each row from the mask and from `lengths`, never from the "
    "batch's width or longest row."
)
def batch(subject: Subject) -> None:
    """A row's logits and its continuation do not depend on its batch mates."""
    model = subject.model
    rows = [tokens(1, count, seed=count)[0] for count in (150, 70, 20)]
    width = max(map(len, rows))
    ids = torch.ones(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :], mask[number, width - len(row) :] = row, 1
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad(), subject.method.begin_request(model, [len(row) for row in rows]):
        together = model(ids, attention_mask=mask, position_ids=places).logits
    how = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    continued = model.generate(ids, attention_mask=mask, **how)[:, width:]
    for number, row in enumerate(rows):
        alone = _logits(model, row[None])[0]
        what = f"the row of {len(row)} tokens in a batch against alone"
        _compare(together[number, width - len(row) :], alone, what)
        own = model.generate(row[None], attention_mask=torch.ones_like(row)[None], **how)
        if not torch.equal(own[0, len(row) :], continued[number]):
            raise Broken(f"{what}: it is continued by other tokens")


@CHECKS.add("keep nothing of a request on the model: what it needs belongs in begin_request.")
def stateless(subject: Subject) -> None:
    """A result does not depend on earlier requests."""
    model, ids = subject.model, tokens(1, 70)
    first = _logits(model, ids)
    _logits(model, tokens(1, 200, seed=1))
    model.generate(tokens(1, 120, seed=2), max_new_tokens=4, do_sample=False)
    _compare(_logits(model, ids), first, "the same request after others", atol=0)


@CHECKS.add(
    "return from reuse_key all that cached keys depend on (the base, the stretch), or None where "
    "requests of different length may not share."
)
def reuse_key(subject: Subject) -> None:
    """Requests with equal keys share a prefix and give equal logits."""
    from transformers import DynamicCache

    method, model = subject.method, subject.model
    lengths = (90, 100, 130, 200, subject.length)
    keys = {length: method.reuse_key(model.config, length) for length in lengths}
    if any(keys[length] != method.reuse_key(model.config, length) for length in lengths):
        raise Broken("reuse_key gives another key when asked again")
    pairs = [
        (one, two) for one in lengths for two in lengths
        if one < two and keys[one] == keys[two] is not None
    ]  # fmt: skip
    if not pairs or not method.cacheable:
        raise NotApplicable("no two lengths share a key")
    for one, two in pairs:
        ids = tokens(1, two)
        cache = DynamicCache(config=model.config)
        shared = one - 10  # read for a request of one length, continued for another
        _logits(model, ids[:, :shared], length=one, past_key_values=cache, use_cache=True)
        rest = _logits(model, ids[:, shared:], length=two, past_key_values=cache, use_cache=True)
        what = f"lengths {one} and {two} have equal keys, but a prefix read for {one} and continued"
        _compare(rest, _logits(model, ids)[:, shared:], f"{what} for {two} is not one pass")


# ------------------------------------------------------------------- training


@CHECKS.add("draw from the generator that is given, and return a new dictionary.")
def edit_batch(subject: Subject) -> None:
    """A training batch follows from the generator alone, and stays a batch."""
    method = subject.method.for_training(base_config(subject.model.config))
    given = {"input_ids": tokens(2, 2 * WINDOW), "labels": tokens(2, 2 * WINDOW)}
    kept, results = copy.deepcopy(given), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        results.append(method.edit_batch(given, torch.Generator().manual_seed(0)))
    if any(not torch.equal(given[name], kept[name]) for name in kept):
        raise Broken("edit_batch changed the batch it was given")
    one, two = results
    if set(one) != set(two) or any(not torch.equal(one[name], two[name]) for name in one):
        raise Broken("the same generator gave two different batches")
    if one["input_ids"].shape != one["labels"].shape:
        raise Broken(f"input_ids {one['input_ids'].shape}, but labels {one['labels'].shape}")
    wrong = [name for name, value in one.items() if len(value) != len(kept["labels"])]
    if wrong:
        raise Broken(f"the first dimension of {', '.join(wrong)} is not the batch")


@CHECKS.add(
    "look at edit_batch and trainable; a tensor of the method's own must require a gradient, or "
    "be no parameter."
)
def trains(subject: Subject) -> None:
    """Two training steps move weights, and the result opens again."""
    import contextlib
    import io

    from ctxbench.train.config import make_config
    from ctxbench.train.loop import train

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subject.base().save_pretrained(folder / "base")
        tiny_tokenizer().save_pretrained(folder / "base")
        words = [" ".join(f"w{i}" for i in row) for row in tokens(8, 200).tolist()]
        lines = [json.dumps({"text": text}) for text in words]
        (folder / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
        values = {
            "model": str(folder / "base"), "data": str(folder / "data.jsonl"),
            "output": str(folder / "out"), "method": subject.method.name,
            "options": {k: v for k, v in subject.options.items() if k != "length"},
            "length": 2 * WINDOW, "batch_size": 2, "tokens": 2 * 2 * 2 * WINDOW, "warmup": 0,
            "lr": 1e-3, "dtype": "fp32", "activation_checkpointing": "none", "save_every": 0,
        }  # fmt: skip
        with contextlib.redirect_stderr(io.StringIO()):
            train(make_config(None, values))
        metrics = (folder / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(metrics) == 2
        trained, _ = load_model(folder / "out")
        before = subject.base().state_dict()
        after = trained.state_dict()
        if all(
            torch.equal(before[k], after[k]) for k in before if after[k].shape == before[k].shape
        ):
            raise Broken("two steps at a learning rate of 0.001 moved no weight")
        if not torch.isfinite(_logits(trained, tokens(1, 2 * WINDOW))).all():
            raise Broken("the trained model's logits are not finite")
