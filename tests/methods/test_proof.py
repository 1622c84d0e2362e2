"""The proof at attachment: what it lets pass, what it refuses, and that it leaves no trace."""

import copy
import json
from itertools import product

import pytest
import torch
from transformers.models.llama import modeling_llama

from ctxbench.methods.extension import extension_of
from ctxbench.methods.proof import TOLERANCE, Refused, check_switch
from ctxbench.methods.registry import get_method, list_methods
from ctxbench.models.loading import extend, load_model, save_model
from ctxbench.models.temporary import extended
from tests.methods.architectures import model_of, tiny
from tests.train.small import small_config, small_model

SAMPLE = (
    *("llama", "cohere", "glm4", "hunyuan_v1_dense", "smollm3", "gemma2", "gemma3_text"),
    *("gpt_oss", "gptj", "stablelm", "deepseek_v3", "qwen3_5_text", "llama4_text", "nanochat"),
)
OPTIONS = {"longrope": {"long_factor": [1.0] * 8}}
METHODS = [name for name in list_methods() if name != "landmark"]


@pytest.mark.parametrize("name", [*METHODS, "landmark"])
def test_every_method_passes_on_a_llama(name):
    model = extend(model_of(tiny("llama")), name, length=2048, **OPTIONS.get(name, {}))
    proof = extension_of(model).proof
    assert proof.state == "passed"
    assert proof.layers == (0, 1, 2, 3)


def test_a_method_without_a_neutral_setting_is_not_called_proven(tmp_path):
    from dataclasses import dataclass

    from ctxbench.methods.base import Method

    @dataclass(frozen=True, kw_only=True)
    class Bare(Method, name="bare"):
        pass

    model = extend(model_of(tiny("llama")), Bare, length=64)
    assert extension_of(model).proof.state == "bare declares no neutral setting"


# --------------------------------------------------------------- broken attention


def wrong_rotation(q, k, cos, sin, unsqueeze_dim=1):
    """Rotates queries and keys by different angles: no rotation of positions."""
    cos, sin = cos[:, None], sin[:, None]
    q = q * cos + modeling_llama.rotate_half(q) * sin
    return q, k * cos + modeling_llama.rotate_half(k) * sin * 0.5


def deaf(q, k, cos, sin, unsqueeze_dim=1):
    """Rotates by angles of its own, whatever the rotary module says."""
    at = torch.arange(q.shape[2], dtype=q.dtype)[None, None, :, None] * 0.1
    return (x * at.cos() + modeling_llama.rotate_half(x) * at.sin() for x in (q, k))


BROKEN = [
    ("lm_infinite", wrong_rotation, "a way that is not known"),
    ("self_extend", deaf, "would change nothing|is refused|not known"),
    ("yarn", deaf, "would change nothing"),
    ("dynamic_ntk", deaf, "would change nothing"),
]
by_each_way = pytest.mark.parametrize(("method", "rotation", "message"), BROKEN[::2])


@pytest.fixture
def base(tmp_path):
    return small_model(tmp_path / "base", num_hidden_layers=2)


@pytest.fixture
def broken(monkeypatch):
    return lambda f: monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", f)


@pytest.mark.parametrize(("method", "rotation", "message"), BROKEN)
def test_extend_refuses_a_broken_attention(broken, method, rotation, message):
    model = model_of(tiny("llama"))
    broken(rotation)
    with pytest.raises(Refused, match=message):
        extend(model, method, length=2048)


def test_without_the_proof_it_is_attached_and_said(broken, base):
    from ctxbench.models.ctxext import CtxExt

    broken(deaf)
    given = {"method": "yarn", "length": 2048, "proof": "off"}
    loaded, _ = load_model(base, **given)
    for model in (extend(model_of(tiny("llama")), **given), loaded):
        assert extension_of(model).proof.state == "off"
    assert CtxExt(pretrained=str(base), batch_size=1, **given).attached()["proof"] == "off"


@by_each_way
def test_extended_refuses_a_broken_attention(broken, method, rotation, message):
    model = model_of(tiny("llama"))
    broken(rotation)
    with pytest.raises(Refused, match=message), extended(model, method, length=2048):
        pass


@by_each_way
def test_load_model_refuses_a_broken_attention(broken, base, method, rotation, message):
    broken(rotation)
    with pytest.raises(Refused, match=message):
        load_model(base, method, length=2048)


@by_each_way
def test_a_saved_checkpoint_is_proven_again(broken, base, tmp_path, method, rotation, message):
    model, tokenizer = load_model(base, method, length=2048)
    save_model(model, tokenizer, tmp_path / "saved")
    broken(rotation)
    with pytest.raises(Refused, match=message):
        load_model(tmp_path / "saved")


@by_each_way
def test_ctxext_refuses_a_broken_attention(broken, base, method, rotation, message):
    from ctxbench.models.ctxext import CtxExt

    broken(rotation)
    with pytest.raises(ValueError, match=message):
        CtxExt(pretrained=str(base), method=method, length=2048, batch_size=1)


@by_each_way
def test_training_refuses_a_broken_attention(broken, base, tmp_path, method, rotation, message):
    from ctxbench.train.loop import train

    config = small_config(tmp_path, model=str(base), method=method, length=64, steps=3)
    broken(rotation)
    with pytest.raises(Refused, match=message):
        train(config)


def test_one_broken_layer_of_a_model_in_memory_is_named():
    """An instance's own forward, which no other layer has and no class knows."""
    model = model_of(tiny("llama"))
    attention = model.model.layers[2].self_attn
    plain = attention.forward

    def forward(*args, **kwargs):
        output, weights = plain(*args, **kwargs)
        mean = kwargs["position_embeddings"][0].mean() if kwargs else 0.0
        return output * (1 + mean), weights

    attention.forward = forward
    with pytest.raises(Refused, match=r"from layer 2 on \(self_attn\)"):
        extend(model, "lm_infinite", length=2048)


# ------------------------------------------------------------------ what it leaves


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["yarn", "clex", "lm_infinite", "longlora", "landmark"])
def test_the_proof_leaves_no_trace(method, dtype):
    def state(model):
        weights = {n: (p.dtype, p.data_ptr(), p.clone()) for n, p in model.named_parameters()}
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        own = [sorted(vars(m)) for m in model.modules()]
        config = json.dumps(model.config.to_dict(), sort_keys=True, default=str)
        return weights, hooks, own, config, [m.training for m in model.modules()]

    from ctxbench.methods.proof import prove

    model = model_of(tiny("llama"), dtype).train()
    model.model.layers[1].eval()
    resolved = get_method(method, length=2048).resolve(model.config)
    before = state(model)
    random = torch.random.get_rng_state()
    assert prove(model, resolved).state == "passed"
    after = state(model)
    assert torch.random.get_rng_state().equal(random)
    assert before[1:] == after[1:]
    for name, (kind, address, value) in before[0].items():
        assert (kind, address) == after[0][name][:2]
        assert value.equal(after[0][name][2])


def test_a_refused_model_is_the_one_it_was(broken):
    model, ids = model_of(tiny("llama")), torch.arange(3, 50)[None]
    expected = model(ids).logits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_llama, "apply_rotary_pos_emb", wrong_rotation)
        with pytest.raises(Refused):
            extend(model, "dca", length=2048)
    assert model(ids).logits.equal(expected)


def test_weights_that_are_not_there_are_said_to_be_unproven():
    with torch.device("meta"):
        model = model_of(tiny("llama")).to("meta")
        extend(model, "yarn", length=2048)
    assert extension_of(model).proof.state == "the weights are not in memory"


@pytest.mark.parametrize(("given", "found"), [("on", "on"), (False, "off"), ("OFF", "off")])
def test_the_switch(given, found):
    assert check_switch(given) == found


def test_another_switch_is_refused():
    with pytest.raises(ValueError, match=r"proof='maybe' is not allowed.*proof=off"):
        check_switch("maybe")


# ------------------------------------------------------------------- tolerance


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text", "gpt_neox", "phi", "cohere"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_tolerance_is_above_that_of_eager_and_sdpa(kind, dtype):
    from ctxbench.methods.look import Look
    from ctxbench.methods.proof import difference

    model = model_of(tiny(kind), dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctxbench.methods.look.CAST", -1)  # as a large model runs
        look, found = Look(model), []
        for implementation in ("eager", "sdpa"):
            model.set_attn_implementation(implementation)
            found.append(look.attention())
    largest = max(difference(found[0][place], found[1][place]) for place in found[0])
    assert largest < TOLERANCE[dtype] / 2


@pytest.mark.parametrize("kind", SAMPLE)
@pytest.mark.parametrize("name", ["yarn", "dynamic_ntk", "lm_infinite", "dca"])
def test_layers_too_large_for_float32_pass_in_bfloat16(kind, name, monkeypatch):
    """As a 13B or 70B model runs it: nothing is cast, and rounding is no fault."""
    monkeypatch.setattr("ctxbench.methods.look.CAST", -1)
    model = model_of(tiny(kind), torch.bfloat16)
    override = {"override": True} if kind == "gpt_oss" and name in ("yarn", "dynamic_ntk") else {}
    if kind == "gptj" and name in ("lm_infinite", "dca"):
        with pytest.raises(Refused, match="AttentionInterface"):
            extend(model, name, length=2048)
        return
    extend(model, name, length=2048, **override)
    assert extension_of(model).proof.state == "passed"


@pytest.mark.parametrize(("method", "rotation", "message"), BROKEN)
def test_what_is_broken_is_seen_in_bfloat16(broken, method, rotation, message, monkeypatch):
    monkeypatch.setattr("ctxbench.methods.look.CAST", -1)
    model = model_of(tiny("llama"), torch.bfloat16)
    broken(rotation)
    with pytest.raises(Refused, match=message):
        extend(model, method, length=2048)


@pytest.mark.parametrize("kind", ["opt", "bert", "gpt2", "granite_swa", "hrm_text"])
def test_the_control_is_refused_nowhere(kind):
    """Without rotation, without a list of layers, without a layer that rotates."""
    model = extend(model_of(tiny(kind)), "none")
    assert extension_of(model).proof.state
    assert model(torch.arange(3, 19)[None]).logits.isfinite().all()


# ------------------------------------------------------------------ beyond it


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind, name in product(SAMPLE, ["pi", "dynamic_ntk", "lm_infinite", "self_extend"])
        # GPT-J asks no AttentionInterface, and reads one table for a batch of many lengths; gpt-oss
        # has a scaling of its own, without which it is another model
        if kind != "gptj" or name == "pi"
        if kind != "gpt_oss" or name not in ("pi", "dynamic_ntk")
    ],
)
def test_a_neutral_method_generates_what_the_model_does(kind, name):
    """Longer texts than the proof's, batches with padding, and many steps of decoding."""
    config = tiny(kind)
    plain = model_of(config)
    ids = torch.randint(3, 160, (2, 90), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :17] = 0
    asked = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "attention_mask": mask}
    expected = plain.generate(ids, **asked, output_logits=True, return_dict_in_generate=True)
    options = {"pi": {"factor": 1.0}, "dynamic_ntk": {}}.get(name, {"window": 120})
    model = extend(copy.deepcopy(plain), name, length=128, **options)
    found = model.generate(ids, **asked, output_logits=True, return_dict_in_generate=True)
    assert found.sequences.equal(expected.sequences)
    for ours, theirs in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)
