"""Methods on the model types of transformers, beyond what the proof looks at."""

import copy
import json
import os

import pytest
import torch
import transformers

from ctxbench.methods.attach import method_of
from ctxbench.methods.extension import extension_of
from ctxbench.methods.record import base_config
from ctxbench.methods.registry import get_method
from ctxbench.methods.rope_settings import rope_settings, set_rope_settings
from ctxbench.models.loading import extend
from tests.methods.architectures import SCALINGS, TABLE, kinds, model_of, scan, tiny

POSITION_KINDS = (
    *("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "gemma"),
    *("gemma2", "gemma3_text", "phi", "phi3", "gpt_neox", "gptj", "codegen", "stablelm", "olmo"),
    *("olmo2", "olmo3", "cohere", "cohere2", "glm", "glm4", "ernie4_5", "helium", "smollm3"),
    *("granite", "falcon", "nemotron", "starcoder2", "gpt_oss", "hunyuan_v1_dense", "deepseek_v3"),
)
"""Every position method works on these."""
FAST = ("llama", "cohere", "gemma3_text", "phi", "gptj", "deepseek_v3", "gpt_oss", "olmo3")
OWN_SCALING = ("gpt_oss",)
TABLES = ("gptj", "codegen")
IDS = torch.randint(3, 160, (1, 700), generator=torch.Generator().manual_seed(3))


def few(kinds, fast=FAST):
    return [kind if kind in fast else pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]


def table():
    return json.loads(TABLE.read_text())


@pytest.mark.parametrize("kind", few(POSITION_KINDS))
@pytest.mark.parametrize("name", ["pi", "yarn", "llama3"])
def test_a_position_method_is_what_transformers_computes(kind, name):
    """Weights equal, frequencies by transformers' own code; half of the text beyond the window."""
    if kind in TABLES or (kind == "phi3" and name != "pi"):
        pytest.skip("transformers has no such scaling for this kind")
    config = tiny(kind)
    given = {"override": True} if kind in OWN_SCALING else {}
    ours = extend(model_of(copy.deepcopy(config)), name, length=2048, **given)
    base = base_config(ours.config)
    stock = get_method(name, length=2048).resolve(base).stock_parameters(base)
    changed = copy.deepcopy(base)
    set_rope_settings(changed, {**rope_settings(changed), **stock})
    changed.max_position_embeddings = 2048
    theirs = model_of(changed)
    with torch.no_grad():
        found, expected = ours(IDS).logits, theirs(IDS).logits
        plain = model_of(base)(IDS).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found - plain).abs().max() > 1e-3


@pytest.mark.parametrize("kind", few(POSITION_KINDS))
@pytest.mark.parametrize("name", ["ntk", "dynamic_ntk", "clex"])
def test_methods_that_transformers_lacks_run(kind, name):
    given = {"override": True} if kind in OWN_SCALING else {}
    config = tiny(kind)
    model = extend(model_of(copy.deepcopy(config)), name, length=2048, **given)
    assert extension_of(model).proof.state == "passed"
    with torch.no_grad():
        found, short = model(IDS).logits, model(IDS[:, :100]).logits
    assert found.isfinite().all()
    if kind not in TABLES:  # which end at the window
        assert (found - model_of(config)(IDS).logits).abs().max() > 1e-3
    if name != "ntk" and kind not in OWN_SCALING:  # within the window they change nothing
        torch.testing.assert_close(short, model_of(config)(IDS[:, :100]).logits, rtol=0, atol=1e-4)


def test_yarn_runs_on_a_config_without_head_dim():
    """Mixtral's published config has none; its heads are not as wide as the default's."""
    config = tiny("mixtral", head_dim=None)
    config.head_dim = None
    model = extend(model_of(config), "yarn", length=2048)
    wide = tiny("mixtral", head_dim=16)
    expected = extend(model_of(wide), "yarn", length=2048)
    with torch.no_grad():
        assert model(IDS).logits.equal(expected(IDS).logits)


SAMPLE = ("bailing_hybrid", "diffllama", "gemma2", "gpt2", "llama4_text", "mistral", "qwen3_5_text")
WHOLE = "CTXBENCH_WHOLE_SCAN"


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds() if os.environ.get(WHOLE) else SAMPLE)
def test_the_table_is_what_is_found(kind):
    """Nothing wrong and nothing crashing: `scan` raises on both. Another release, another table.

    All kinds with CTXBENCH_WHOLE_SCAN=1 (ten minutes), else a few.
    """
    found = scan(kind)
    if table()["transformers"] == transformers.__version__:
        assert found == table()["kinds"][kind]


@pytest.mark.parametrize("kind", POSITION_KINDS)
def test_the_table_has_the_position_methods_of_every_known_kind(kind):
    found = table()["kinds"][kind]
    for name in ("pi", "ntk", "dynamic_ntk", "yarn", "llama3", "clex"):
        assert found.get("all", found.get(name)) == "works"


def test_the_table_has_every_kind_of_this_transformers():
    if table()["transformers"] != transformers.__version__:
        pytest.skip(f"the table is of transformers {table()['transformers']}")
    assert sorted(table()["kinds"]) == kinds()


def test_scalings_are_those_of_transformers():
    from ctxbench.core.compat.transformers import scaling_types

    assert {*SCALINGS} <= {*scaling_types()}


@pytest.mark.parametrize(
    ("kind", "has"),
    [("bloom", "ALiBi"), ("gpt2", "learned or fixed"), ("mamba", "recurrent"), ("opt", "learned")],
)
def test_models_without_rotation_are_refused_by_what_they_have(kind, has):
    with pytest.raises(ValueError, match=f"has no rotary position embedding.*{has}"):
        extend(model_of(tiny(kind)), "yarn", length=2048)


def test_longrope_of_a_model_published_with_it_can_be_replaced():
    """Its searched divisors are the model's, whatever scaling is set aside."""
    own = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0}
    own |= {"long_factor": [2.0] * 8, "short_factor": [1.0] * 8}
    config = tiny("phi3", rope_parameters=own)
    with pytest.raises(ValueError, match=r"already extended.*override=true to replace"):
        extend(model_of(copy.deepcopy(config)), "longrope", length=2048)
    model = extend(model_of(config), "longrope", length=2048, override=True)
    assert method_of(model).long_factor == (2.0,) * 8
    other = extend(model_of(tiny("phi3", rope_parameters=own)), "ntk", length=8192, override=True)
    assert extension_of(other).proof.state == "passed"
