"""What `ctxbench` gives: names that change nothing global, a model extended for a while."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ctxbench
from ctxbench.validate.tiny import tiny_model, tiny_tokenizer, tokens

NEEDED = {"longrope": {"long_factor": [2.0] * 8}}
BEFORE = [None, "clex", "self_extend", "dynamic_ntk"]


def state(model, ids):
    with torch.no_grad():
        logits = model(ids).logits
    hooks = len(model.base_model._forward_pre_hooks), len(model.base_model._forward_hooks)
    named = {name: value.clone() for name, value in model.state_dict().items()}
    own = type(model.base_model.rotary_emb), sorted(vars(model)), model.config.to_dict()
    return [logits, *named.values()], [*named, hooks, own, model.config._attn_implementation]


def fail_after(model, ids):
    """Serve once, then fail as a user's own code might."""
    model(ids)
    raise ZeroDivisionError


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("name", ctxbench.list_methods())
def test_a_model_is_what_it_was_after_the_block(name, before):
    model, ids = tiny_model(), tokens(1, 40)
    if before:
        ctxbench.extend(model, before, length=256)
    with torch.no_grad():
        for tensor in [getattr(model.base_model.rotary_emb, "up", torch.empty(0))]:
            tensor.add_(0.01)  # as if CLEX had been trained
    tensors, rest = state(model, ids)
    other = {"override": True} if before not in (None, name) else {}
    with (
        pytest.raises(ZeroDivisionError),
        ctxbench.extended(model, name, length=256, **other, **NEEDED.get(name, {})) as inside,
    ):
        fail_after(inside, ids)
    again, rest_again = state(model, ids)
    assert rest_again == rest
    assert all(a.equal(b) for a, b in zip(tensors, again, strict=True))


def test_a_refused_method_changes_nothing():
    model, ids = ctxbench.extend(tiny_model(), "yarn", length=256), tokens(1, 40)
    tensors, rest = state(model, ids)
    with pytest.raises(ValueError, match="no method 'yrn'"), ctxbench.extended(model, "yrn"):
        pass
    again, rest_again = state(model, ids)
    assert rest_again == rest
    assert all(a.equal(b) for a, b in zip(tensors, again, strict=True))


@pytest.mark.parametrize("name", ctxbench.list_methods())
def test_blocks_in_blocks_put_back_what_each_found(name):
    model, ids = tiny_model(), tokens(1, 40)
    given = NEEDED.get(name, {})
    outside = state(model, ids)
    with ctxbench.extended(model, name, length=256, **given):
        between = state(model, ids)
        for inner, options in ((name, given), ("landmark", {}), ("clex", {}), (None, {})):
            other = {} if inner in (name, None) else {"override": True}
            with ctxbench.extended(model, inner, length=512, **other, **options):
                model(ids)
            assert_same(state(model, ids), between)
    assert_same(state(model, ids), outside)


def test_a_tokenizer_forgets_what_the_block_added():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    before = len(tokenizer), tokenizer.get_vocab(), tokenizer.special_tokens_map
    for _ in range(2):
        with ctxbench.extended(model, "landmark", length=256, tokenizer=tokenizer):
            assert tokenizer.convert_tokens_to_ids("<landmark>") == len(tokenizer) - 1 == before[0]
        assert (len(tokenizer), tokenizer.get_vocab(), tokenizer.special_tokens_map) == before
    with (
        pytest.raises(ValueError, match="no method 'yrn'"),
        ctxbench.extended(model, "yrn", tokenizer=tokenizer),
    ):
        pass
    assert tokenizer("w2 w3 <landmark>")["input_ids"] == [2, 3, 2]


def assert_same(found, expected):
    assert found[1] == expected[1]
    assert all(a.equal(b) for a, b in zip(found[0], expected[0], strict=True))


IMPORTS = """
import logging, os, sys, warnings
import torch, transformers
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
import ctxbench
def world():
    return (sys.excepthook, list(warnings.filters), dict(os.environ), torch.get_default_dtype(),
            torch.is_grad_enabled(), list(logging.getLogger().handlers),
            sorted(AttentionInterface()), sorted(AttentionMaskInterface()))
before = world()
for name in ctxbench.__all__:
    getattr(ctxbench, name)
assert "ctxbench.train.config" in sys.modules
for number, (a, b) in enumerate(zip(before, world())):
    assert a == b, (number, a, b)
"""


def test_importing_every_name_changes_nothing_global():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_training_and_evaluating_from_python(tmp_path):
    (tmp_path / "text.txt").write_text("The needle is in the haystack.\n" * 400)
    folder = ctxbench.train_model(
        model="mini",
        method="pi",
        data=[str(tmp_path / "text.txt")],
        output=str(tmp_path / "out"),
        length="512",
        tokens=1024,
        batch_size=1,
        warmup=0,
    )
    model, _ = ctxbench.load_model(folder)
    record = ctxbench.read_record(model.config)
    assert (record.method, record.trained_length) == ("pi", 512)
    found = ctxbench.evaluate_model(str(folder), ["mini_needle_256"], limit=1)
    assert set(found["results"]) == {"mini_needle_256"}
    assert found["config"]["ctxbench"]["method"] == "pi"


def test_a_recipe_beside_a_config_is_refused(tmp_path):
    config = ctxbench.TrainConfig(model="mini", data=("stdlib",), output=str(tmp_path / "out"))
    with pytest.raises(ValueError, match="recipe='mini', which would be ignored"):
        ctxbench.train_model(config, recipe="mini")


def untyped(file):
    """Arguments and results of every `def` in a file that have no type."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            given = node.args
            named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            missing = [
                a.arg for a in named if a and not a.annotation and a.arg not in ("self", "cls")
            ]
            if missing or node.returns is None:
                yield f"{file.name}, line {node.lineno}: {node.name}({', '.join(missing)})"


def test_every_function_of_the_methods_is_typed():
    folder = Path(ctxbench.__file__).parent / "methods"
    assert [found for file in sorted(folder.rglob("*.py")) for found in untyped(file)] == []
