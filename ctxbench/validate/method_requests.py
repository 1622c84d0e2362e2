"""What every method owes (`ctxbench/methods/base.py`) at work: requests and training."""

from __future__ import annotations

import copy
import json
import random
import tempfile
from pathlib import Path

import torch

from ctxbench.methods.record import base_config
from ctxbench.models.loading import load_model
from ctxbench.validate import method_models
from ctxbench.validate.checks import Broken, Checks, NotApplicable
from ctxbench.validate.method_subject import Subject, compare, logits
from ctxbench.validate.tiny import WINDOW, tiny_tokenizer, tokens

CHECKS = Checks(method_models.CHECKS)
"""Of a method: those of `method_models`, the basic ones, first."""


# -------------------------------------------------------------------- serving


@CHECKS.add("follow the first layer's queries and keys: nan mostly comes from a position or mask.")
def runs_at_length(subject: Subject) -> None:
    """A text as long as the window has finite logits."""
    found = logits(subject.model, tokens(1, subject.length))
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
    expected = logits(model, ids)
    cache = DynamicCache(config=model.config)
    pieces = ids.split([60, 1, 1, 30, 8], dim=1)
    parts = [logits(model, p, length=100, past_key_values=cache, use_cache=True) for p in pieces]
    compare(torch.cat(parts, 1), expected, "pieces over a cache against one pass")


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
        alone = logits(model, row[None])[0]
        what = f"the row of {len(row)} tokens in a batch against alone"
        compare(together[number, width - len(row) :], alone, what)
        own = model.generate(row[None], attention_mask=torch.ones_like(row)[None], **how)
        if not torch.equal(own[0, len(row) :], continued[number]):
            raise Broken(f"{what}: it is continued by other tokens")


@CHECKS.add("keep nothing of a request on the model: what it needs belongs in begin_request.")
def stateless(subject: Subject) -> None:
    """A result does not depend on earlier requests."""
    model, ids = subject.model, tokens(1, 70)
    first = logits(model, ids)
    logits(model, tokens(1, 200, seed=1))
    model.generate(tokens(1, 120, seed=2), max_new_tokens=4, do_sample=False)
    compare(logits(model, ids), first, "the same request after others", atol=0)


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
        logits(model, ids[:, :shared], length=one, past_key_values=cache, use_cache=True)
        rest = logits(model, ids[:, shared:], length=two, past_key_values=cache, use_cache=True)
        what = f"lengths {one} and {two} have equal keys, but a prefix read for {one} and continued"
        compare(rest, logits(model, ids)[:, shared:], f"{what} for {two} is not one pass")


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
        if not torch.isfinite(logits(trained, tokens(1, 2 * WINDOW))).all():
            raise Broken("the trained model's logits are not finite")
