"""What every position method must do on every architecture, on tiny random models."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

import ctxbench
from ctxbench.methods.attach import method_of
from ctxbench.methods.rotary import rotary_dim
from tests.methods.tiny import tiny_config, tiny_model, tokens

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


def extended(case: str, architecture: str = "llama", *, length: int = LENGTH, **more):
    name, options = METHODS[case]
    model = tiny_model(architecture, **more)
    if name == "longrope":
        pairs = rotary_dim(model.config) // 2
        options = {**options, "long_factor": [1 + j for j in range(pairs)]}
    return ctxbench.extend(model, name, length=length, **options)


def test_plain_transformers_has_these():
    """What saving does with that is in the contract (test_contract.py)."""
    made = {case: extended(case) for case in METHODS}
    found = {c for c, model in made.items() if method_of(model).plain_checkpoint(model.config)}
    assert found == PLAIN
    for case in ("pi", "yarn", "llama3"):  # Phi-3's config refuses all types but its own
        model = extended(case, "phi3")
        assert not method_of(model).plain_checkpoint(model.config)


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


@pytest.mark.parametrize("case", METHODS)
def test_casting_the_model_leaves_frequencies_exact(case):
    model = extended(case, max_position_embeddings=8192, length=32768)
    exact, scale = method_of(model).frequencies(model.config, 8000)
    model.to(torch.bfloat16)
    position = torch.tensor([[7999]])
    with method_of(model).begin_request(model, [8000]):
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
    assert method_of(model).reuse_key(model.config, 100) is None


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
        method, config = method_of(model), model.config
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
