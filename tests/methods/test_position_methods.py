"""What every position method must do on every architecture, on tiny random models."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

import ctxbench
from ctxbench.methods.record import read_record
from ctxbench.methods.rotary import rotary_dim
from ctxbench.models import loading
from tests.methods.tiny import ARCHITECTURES, tiny_config, tiny_model, tokens

LENGTH = 256  # four times the tiny models' window

METHODS = {
    "none": ("none", {}),
    "pi": ("pi", {}),
    "ntk": ("ntk", {}),
    "abf": ("abf", {}),
    "llama3": ("llama3", {}),
    "yarn": ("yarn", {}),
    "yarn-paper": ("yarn", {"ramp": "paper"}),
    "yarn-dynamic": ("yarn", {"dynamic": True}),
    "dynamic_ntk": ("dynamic_ntk", {}),
    "dynamic_ntk-floor": ("dynamic_ntk", {"factor": 4, "floor": 128}),
    "longrope": ("longrope", {}),
}
PLAIN = {"none", "pi", "ntk", "abf", "llama3", "yarn"}


# every method on two architectures, three methods (one of each seam) on all
MATRIX = [
    (case, architecture)
    for case in METHODS
    for architecture in ARCHITECTURES
    if architecture in ("llama", "phi") or case in ("yarn", "dynamic_ntk", "yarn-paper")
]


def extended(case: str, architecture: str = "llama", *, length: int = LENGTH, **more):
    name, options = METHODS[case]
    model = tiny_model(architecture, **more)
    if name == "longrope":
        pairs = rotary_dim(model.config) // 2
        options = {**options, "long_factor": [1 + j for j in range(pairs)]}
    return ctxbench.extend(model, name, length=length, **options)


@pytest.fixture
def no_tokenizer(monkeypatch):
    monkeypatch.setattr(loading, "load_tokenizer", lambda *args, **kwargs: None)
    for case in METHODS.values():
        monkeypatch.setattr(
            ctxbench.methods.registry.method_class(case[0]), "edit_tokenizer", lambda *a: None
        )


@torch.no_grad()
@pytest.mark.parametrize(("case", "architecture"), MATRIX)
def test_save_and_load_give_equal_logits(case, architecture, tmp_path, no_tokenizer):
    model = extended(case, architecture)
    ids = tokens(2, 100)
    expected = model(ids).logits
    ctxbench.save_model(model, None, tmp_path)
    again, _ = ctxbench.load_model(tmp_path)
    assert torch.equal(again(ids).logits, expected)
    assert read_record(again.config) == read_record(model.config)
    phi3_refuses = architecture == "phi3" and METHODS[case][0] in ("pi", "yarn", "llama3")
    if case in PLAIN and not phi3_refuses:
        plain = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(plain(ids).logits, expected)
    else:  # refused by name rather than computed wrongly
        with pytest.raises(Exception, match=f"needs_ctxbench_method_{METHODS[case][0]}"):
            AutoModelForCausalLM.from_pretrained(tmp_path)


@torch.no_grad()
@pytest.mark.parametrize(("case", "architecture"), MATRIX)
def test_cached_decoding_equals_the_full_forward(case, architecture):
    model = extended(case, architecture, initializer_range=0.1)
    ids = tokens(1, 80)
    full = model(ids).logits
    cache = DynamicCache(config=model.config)
    with model.ctxbench_method.begin_request(model, [80]):
        parts = [model(ids[:, :60], past_key_values=cache).logits]
        parts += [model(ids[:, i : i + 1], past_key_values=cache).logits for i in range(60, 80)]
    # float32 rounding; logits of the tiny models are of order one
    torch.testing.assert_close(torch.cat(parts, 1), full, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("case", METHODS)
def test_a_mixed_batch_equals_each_row_alone(case):
    model = extended(case, initializer_range=0.1)
    rows = [tokens(1, n, seed=n)[0] for n in (150, 70, 20)]
    width = max(map(len, rows))
    ids = torch.ones(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = row
        mask[number, width - len(row) :] = 1
    together = model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
    for number, row in enumerate(rows):
        alone = model.generate(
            row[None],
            attention_mask=torch.ones_like(row)[None],
            max_new_tokens=12,
            do_sample=False,
        )
        new = alone[0, len(row) :].tolist()  # may end early, at EOS
        assert together[number, width : width + len(new)].tolist() == new


@torch.no_grad()
@pytest.mark.parametrize("case", ["dynamic_ntk", "yarn-dynamic", "longrope"])
def test_nothing_depends_on_earlier_requests(case):
    model = extended(case)
    ids = tokens(1, 70)
    first = model(ids).logits
    model(tokens(1, 200, seed=1))
    model.generate(tokens(1, 120, seed=2), max_new_tokens=5, do_sample=False)
    assert torch.equal(model(ids).logits, first)


@torch.no_grad()
def test_beams_follow_their_row():
    model = extended("dynamic_ntk")
    rows = tokens(2, 80)
    mask = torch.ones_like(rows)
    together = model.generate(
        rows, attention_mask=mask, max_new_tokens=6, num_beams=2, do_sample=False
    )
    for number in range(2):
        alone = model.generate(
            rows[number : number + 1],
            attention_mask=mask[:1],
            max_new_tokens=6,
            num_beams=2,
            do_sample=False,
        )
        assert together[number].tolist()[: alone.shape[1]] == alone[0].tolist()


IDENTITY = {
    "pi": {"factor": 1},
    "ntk": {"alpha": 1},
    "yarn": {"factor": 1},
    "llama3": {"factor": 1},
    "dynamic_ntk": {"factor": 1},
    "abf": {"base": 10000},
}


@torch.no_grad()
@pytest.mark.parametrize("name", IDENTITY)
def test_factor_one_is_the_identity(name):
    # dynamic NTK with s = 1 is alpha = L / C beyond the window, so its identity is within it
    ids = tokens(1, 64 if name == "dynamic_ntk" else 100)
    expected = tiny_model()(ids).logits
    model = ctxbench.extend(tiny_model(), name, length=LENGTH, **IDENTITY[name])
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", METHODS)
def test_frequencies_agree_before_and_after_the_edit(case):
    model = extended(case)
    method = model.ctxbench_method
    for length in (32, 64, 65, 300):
        before = method.frequencies(tiny_config(), length)
        after = method.frequencies(model.config, length)
        assert torch.equal(before[0], after[0])
        assert before[1] == after[1]


@pytest.mark.parametrize("case", METHODS)
def test_casting_the_model_leaves_frequencies_exact(case):
    model = extended(case, max_position_embeddings=8192, length=32768)
    exact, scale = model.ctxbench_method.frequencies(model.config, 8000)
    model.to(torch.bfloat16)
    position = torch.tensor([[7999]])
    with model.ctxbench_method.begin_request(model, [8000]):
        cos, _ = model.base_model.rotary_emb(torch.zeros(1, dtype=torch.float64), position)
    # float32 phases at position 8000 are good to 5e-4; bfloat16 frequencies would be off by radians
    torch.testing.assert_close(
        cos[0, 0, : len(exact)].double(), (7999 * exact).cos() * scale, rtol=0, atol=1e-3
    )


@torch.no_grad()
def test_stateless_policy_recomputes_without_a_cache():
    model = ctxbench.extend(tiny_model(), "dynamic_ntk", length=LENGTH, policy="stateless")
    prompt = tokens(1, 70)
    out = model.generate(prompt, max_new_tokens=8, do_sample=False)
    ids = prompt
    for _ in range(8):
        ids = torch.cat((ids, model(ids).logits[:, -1:].argmax(-1)), 1)
    assert out[0].tolist() == ids[0, : out.shape[1]].tolist()  # may end early, at EOS
    assert out.shape[1] > 70
    assert model.ctxbench_method.reuse_key(model.config, 100) is None


@torch.no_grad()
def test_hf_policy_equals_transformers():
    config = tiny_config()
    config.rope_parameters = {**config.rope_parameters, "rope_type": "dynamic", "factor": 2.0}
    base = tiny_model()
    theirs = AutoModelForCausalLM.from_config(config).eval()
    theirs.load_state_dict(base.state_dict())
    ours = ctxbench.extend(base, "dynamic_ntk", length=LENGTH, policy="hf")
    for length in (50, 90, 200, 90, 50, 70):  # the state of the one follows the state of the other
        ids = tokens(1, length, seed=length)
        assert torch.equal(ours(ids).logits, theirs(ids).logits)
    prompt = tokens(1, 100)
    kwargs = {"max_new_tokens": 10, "do_sample": False}
    assert torch.equal(ours.generate(prompt, **kwargs), theirs.generate(prompt, **kwargs))


def test_reuse_keys_are_equal_exactly_where_frequencies_are():
    for case in METHODS:
        model = extended(case)
        method, config = model.ctxbench_method, model.config
        for one in (32, 64, 65, 130, 200):
            for two in (40, 64, 66, 130, 256):
                same = all(
                    torch.equal(torch.as_tensor(a), torch.as_tensor(b))
                    for a, b in zip(
                        method.frequencies(config, one),
                        method.frequencies(config, two),
                        strict=True,
                    )
                )
                keys = method.reuse_key(config, one), method.reuse_key(config, two)
                assert (keys[0] == keys[1]) == same, (case, one, two)


def test_training_rule_of_dynamic_ntk():
    """The paper's NTK-32K: factor = length / (2 C), floor = length, alpha 29 at 32k."""
    config = tiny_config(max_position_embeddings=4096)
    method = ctxbench.get_method("dynamic_ntk", length=32768).for_training(config)
    assert (method.factor, method.floor) == (4.0, 32768)
    assert method.alpha(config, 32768) == 29
    own = ctxbench.get_method("dynamic_ntk", length=32768, factor=3)
    assert own.for_training(config) == own


def test_a_copied_model_is_independent():
    model = extended("dynamic_ntk")
    twin = copy.deepcopy(model.base_model.rotary_emb)
    twin.pinned = (5,)
    assert model.base_model.rotary_emb.pinned is None
