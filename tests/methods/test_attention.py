"""What every attention method owes, on every architecture: exactness, caches, padding."""

import copy
import math
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from ctxbench.methods.attach import attach, method_of
from ctxbench.methods.attention import AttentionCall, AttentionMethod
from ctxbench.methods.kernels.dense import dense
from ctxbench.methods.kernels.plan import FULL
from ctxbench.methods.kernels.rope import Rope
from ctxbench.methods.kernels.tiled import tiled
from ctxbench.methods.registry import get_method
from ctxbench.methods.turns import angles_of
from ctxbench.models.loading import extend
from ctxbench.validate.tiny import ARCHITECTURES, tiny_config, tiny_model, tokens

METHODS = {
    "lm_infinite": {"window": 12, "sinks": 3},
    "streaming_llm": {"window": 11, "sinks": 3},
    "self_extend": {"window": 12, "group": 4},
    "rerope": {"window": 12},
    "dca": {"chunk": 16, "window": 4},
}
ROUNDING = 5e-5
"""float32 logits of size up to 10: the same sums in another order."""


@dataclass(frozen=True, kw_only=True)
class Identity(AttentionMethod):
    """Ordinary attention through the hook."""

    name = "identity"

    def plan(self, config):
        return FULL


def with_identity(model):
    model = copy.deepcopy(model)
    attach(model, Identity().resolve(model.config))
    return model


def with_method(name: str, architecture: str = "llama", dtype=torch.float32, **overrides):
    model = tiny_model(architecture, **overrides).to(dtype)
    return extend(model, name, length=256, **METHODS[name])


@torch.no_grad()
def logits(model, ids, **kwargs):
    return model(ids, **kwargs).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_identity_equals_stock(architecture):
    model = tiny_model(architecture)
    ours = with_identity(model)
    ids = tokens(2, 40)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0  # left padding
    expected = logits(model, ids)
    torch.testing.assert_close(logits(ours, ids), expected, rtol=0, atol=ROUNDING)
    expected = logits(model, ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(0))
    padded = logits(ours, ids, attention_mask=mask)
    real = mask.bool()
    torch.testing.assert_close(padded[real], expected[real], rtol=0, atol=ROUNDING)
    together = {"max_new_tokens": 12, "do_sample": False, "attention_mask": mask}
    assert ours.generate(ids, **together).equal(model.generate(ids, **together))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", METHODS)
def test_chunks_and_decoding_equal_one_pass(name, architecture):
    model = with_method(name, architecture)
    ids = tokens(2, 70)
    expected = logits(model, ids)
    every = [[1] * 70, [50, 1, 2, 1, 3, 13]] if architecture == "llama" else []
    for sizes in ([33, 1, 1, 30, 5], *every):
        cache, found = None, []
        for piece in ids.split(sizes, dim=1):
            with torch.no_grad():
                out = model(piece, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.logits)
        torch.testing.assert_close(torch.cat(found, 1), expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_padded_rows_equal_single_rows(name, left):
    model = with_method(name)
    rows = [tokens(1, n, seed=n) for n in (61, 40, 13)]
    width = 61
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        some = slice(width - row.shape[1], None) if left else slice(0, row.shape[1])
        ids[i, some], mask[i, some] = row[0], 1
    found = logits(model, ids, attention_mask=mask)
    for i, row in enumerate(rows):
        real, alone = mask[i].bool(), logits(model, row)[0]
        torch.testing.assert_close(found[i][real], alone, rtol=0, atol=ROUNDING)
        one = logits(model, ids[i : i + 1], attention_mask=mask[i : i + 1])[0]
        torch.testing.assert_close(one[real], alone, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_batched_generation_equals_single(name, beams):
    model = with_method(name)
    how = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False, "num_beams": beams}
    rows = [tokens(1, n, seed=n) for n in (33, 9)]
    ids = torch.cat([rows[0], torch.cat([torch.ones(1, 24, dtype=torch.long), rows[1]], 1)])
    mask = torch.ones_like(ids)
    mask[1, :24] = 0
    together = model.generate(ids, attention_mask=mask, **how)[:, 33:]
    for i, row in enumerate(rows):
        alone = model.generate(row, attention_mask=torch.ones_like(row), **how)
        uncached = model.generate(row, attention_mask=torch.ones_like(row), use_cache=False, **how)
        assert alone.equal(uncached)
        assert together[i].equal(alone[0, row.shape[1] :])


@pytest.mark.parametrize("name", METHODS)
def test_a_window_beyond_the_text_equals_the_plain_model(name):
    model = tiny_model()
    ids = tokens(1, 40)
    wide = {"dca": {"chunk": 60, "window": 10}}.get(name, {"window": 60})
    ours = extend(copy.deepcopy(model), name, **wide)
    torch.testing.assert_close(logits(ours, ids), logits(model, ids), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", METHODS)
def test_no_logit_sees_the_future(name):
    model = with_method(name)
    ids = tokens(1, 70)
    changed = ids.clone()
    changed[0, 45] = (changed[0, 45] + 1) % 100
    before, after = logits(model, ids), logits(model, changed)
    assert before[:, :45].equal(after[:, :45])
    assert not before[:, 45:].allclose(after[:, 45:])


def checkpointing(model, on: bool):
    """Renamed during the versions of transformers that we support."""
    what = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{what}_checkpointing_{'enable' if on else 'disable'}")()


@pytest.mark.parametrize("name", METHODS)
def test_gradients_equal_the_oracles_with_and_without_checkpointing(name, monkeypatch):
    ids = tokens(2, 50)

    def gradients(model):
        model.zero_grad()
        model(ids, labels=ids, use_cache=False).loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    model = with_method(name, dtype=torch.float64).train()
    fast = gradients(model)
    checkpointing(model, True)
    checkpointed = gradients(model)
    checkpointing(model, False)
    monkeypatch.setattr("ctxbench.methods.attention.attend", dense)
    oracle = gradients(model)
    for one, two, three in zip(fast, checkpointed, oracle, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
        torch.testing.assert_close(one, three, rtol=0, atol=1e-6)  # RMSNorm is float32 inside


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("block", [7, 16, 64])
@pytest.mark.parametrize("heads", [(2, 2), (6, 2)], ids=["mha", "gqa"])
def test_the_fast_kernel_equals_the_oracle(name, block, heads):
    plan, rope = plan_and_rope(name)
    query, key, value = random_tensors(heads, tokens=150, new=150, dtype=torch.float64)
    at = torch.arange(150)[None]
    for new in (150, 90, 2):
        some = query[:, :, -new:]
        expected = dense(plan, rope, some, key, value, at, 0.25)
        found = tiled(plan, rope, some, key, value, 0.25, block=block)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_stays_near(name):
    """Measured mean error 0.01 on logits of size about 5: bf16 weights and keys."""
    ids = tokens(1, 70)
    exact = logits(with_method(name, initializer_range=0.1), ids)
    rough = logits(with_method(name, initializer_range=0.1, dtype=torch.bfloat16), ids)
    assert (exact - rough.float()).abs().mean() < 0.02


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", METHODS)
def test_flex_attention_equals_the_oracle(name):
    """FlexAttention unfused on the CPU: the same mask and merging as on a GPU."""
    from ctxbench.methods.kernels.flex import flex

    plan, rope = plan_and_rope(name)
    query, key, value = random_tensors((6, 2), tokens=300, new=300)
    at = torch.arange(300)[None]
    for new in (300, 130):
        some = query[:, :, -new:]
        expected = dense(plan, rope, some, key, value, at, 0.25)
        found = flex(plan, rope, some, key, value, 0.25)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_flex_tiles_are_what_a_full_mask_would_give(name):
    from torch.nn.attention.flex_attention import create_block_mask

    from ctxbench.methods.kernels.flex import interval_mask

    plan, _ = plan_and_rope(name)
    at = torch.arange(150, 700)
    for branch in plan.branches:
        first, end = branch.first(at).clamp(min=0), branch.end(at)
        ours = interval_mask(first, end, 700)
        full = create_block_mask(ours.mask_mod, None, None, 550, 700, device="cpu")
        assert ours.to_dense().equal(full.to_dense())


def plan_and_rope(name):
    config = tiny_config(max_position_embeddings=64)
    method = get_method(name, length=512, **METHODS[name]).resolve(config)
    return method.plan(config), Rope(angles_of(tiny_model().model.rotary_emb))


def random_tensors(heads, tokens, new, device="cpu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, heads[0], new, 16, generator=generator)
    key, value = torch.randn(2, 1, heads[1], tokens, 16, generator=generator)
    return [x.to(device, dtype) for x in (query, key, value)]


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS)
def test_flex_attention_on_a_gpu_equals_the_oracle(name):
    from ctxbench.methods.kernels.flex import flex

    plan, cpu = plan_and_rope(name)
    rope = Rope(lambda x, at: [side.to("cuda") for side in cpu.angles(x.cpu(), at.cpu())])
    query, key, value = random_tensors((8, 2), 3000, 3000, "cuda")
    at = torch.arange(3000, device="cuda")[None]
    for new in (3000, 1500, 130):
        some = query[:, :, -new:]
        expected = dense(plan, rope, some, key, value, at, 0.25)
        found = flex(plan, rope, some, key, value, 0.25)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)  # TF32 products


@pytest.mark.parametrize(
    ("name", "options", "config", "message"),
    [
        ("lm_infinite", {"window": 128}, {}, "1 <= window <= length"),
        ("streaming_llm", {"sinks": 64}, {}, "1 <= window <= length"),
        ("self_extend", {"window": 64, "length": 128}, {}, "no group fits"),
        ("self_extend", {"group": 0}, {}, "group"),
        ("rerope", {"window": 0}, {}, "window"),
        ("dca", {"chunk": 8, "window": 8}, {}, "window < chunk"),
    ],
)
def test_senseless_options_are_refused(name, options, config, message):
    config = tiny_config("mistral", **config)
    with pytest.raises(ValueError, match=message):
        get_method(name, **options).resolve(config)


def test_a_model_whose_frequencies_move_is_refused():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(ValueError, match="'dynamic'"):
        get_method("rerope").resolve(tiny_config(rope_parameters=rope))


def test_defaults_come_from_the_model():
    config = tiny_config(max_position_embeddings=4096)

    def options(name, **given):
        return get_method(name, **given).resolve(config).options()

    assert options("lm_infinite", length=32768) == {"window": 4096, "sinks": 10}
    assert options("streaming_llm", length=32768) == {"window": 4092, "sinks": 4}
    assert options("self_extend", length=32768) == {"window": 1024, "group": 16}
    assert options("self_extend", length=4096) == {"window": 1024, "group": 1}
    assert options("rerope", length=32768) == {"window": 1024, "log_scaling": True}
    assert options("dca", length=32768) == {
        "chunk": 3072,
        "window": 512,
        "log_scaling": True,
        "prefill": "exact",
    }


def test_a_group_that_does_not_divide_the_window_warns():
    with pytest.warns(UserWarning, match="A window of 24 would be exact"):
        get_method("self_extend", window=20, group=8).resolve(tiny_config())


def test_unusual_inputs_are_refused():
    model = with_method("lm_infinite")
    ids = tokens(1, 12)
    with pytest.raises(ValueError, match="packed"):
        model(ids, position_ids=torch.arange(12).remainder(5)[None])
    with pytest.raises(ValueError, match="attention_mask has shape"):
        model(ids, attention_mask=torch.ones(1, 1, 12, 12))
    with pytest.raises(ValueError, match="static cache"):
        model.generate(ids, cache_implementation="static", max_new_tokens=2)


@pytest.mark.parametrize("name", METHODS)
def test_a_cache_that_is_cut_back_goes_on_right(name):
    model = with_method(name)
    ids = tokens(1, 70)
    expected = logits(model, ids)
    with torch.no_grad():
        cache = model(ids[:, :40], use_cache=True).past_key_values
        for at in range(40, 60):
            model(ids[:, at : at + 1], past_key_values=cache)
        for layer in cache.layers:
            layer.crop(-15)
        for at in range(45, 70):
            found = model(ids[:, at : at + 1], past_key_values=cache).logits
            torch.testing.assert_close(found, expected[:, at : at + 1], rtol=0, atol=ROUNDING)


def test_another_method_can_take_over():
    model = with_method("lm_infinite")
    ids = tokens(1, 50)
    for name in ("dca", "pi", "longlora", "self_extend", "dynamic_ntk", "rerope", "none"):
        given = {**METHODS.get(name, {}), "length": 64 if name == "none" else 256}
        model = extend(model, name, override=True, **given)
        fresh = extend(tiny_model(), name, **given)
        assert logits(model, ids).equal(logits(fresh, ids)), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", METHODS)
def test_torch_compile_gives_the_same(name):
    model = with_method(name)
    compiled = torch.compile(model, backend="aot_eager")
    ids = tokens(1, 50)
    with torch.no_grad():
        torch.testing.assert_close(compiled(ids).logits, model(ids).logits, rtol=0, atol=ROUNDING)


# ------------------------------------------------- dca as the official code reads a prompt


def official_dca():
    """A model with a window of 32 tokens of its own: beyond it cos and sin grow."""
    model = tiny_model("llama", max_position_embeddings=32)
    return extend(model, "dca", length=256, prefill="official", **METHODS["dca"])


def hook_of(model):
    return model.base_model.layers[0].self_attn.ctxbench_hook


def by_the_official_code(hook, query, key, value, scale):
    """One query at a time, one head: branches apart, merged by weights in bfloat16."""
    n, segment, rows = query.shape[2], 12, []
    rope, factor = hook.turns[0].rope, 1 + 0.05 * math.log(n / 32)
    for t in range(n):
        begin, parts, sums = t // segment * segment, [], []
        before = min(t % segment + segment, 16), begin - segment, begin
        for at, first, end in (
            (t % segment, begin, t + 1),
            before,
            (min(2 * segment - 1, 16), 0, begin - segment),
        ):
            if end <= max(first, 0):
                continue
            j = torch.arange(max(first, 0), end)
            q = rope(factor * query[:, :, t : t + 1], torch.tensor([[at]]))
            k = rope(factor * key[:, :, j], (j % segment)[None])
            scores = (q @ k.transpose(-1, -2) * scale)[0, 0, 0]
            parts.append(scores.softmax(0) @ value[0, 0, j])
            sums.append(scores.logsumexp(0))
        weights = torch.stack(sums).softmax(0).to(torch.bfloat16).float()
        rows.append(weights @ torch.stack(parts))
    return torch.stack(rows)[None, None]


@torch.no_grad()
def test_dca_reads_a_prompt_and_decodes_as_the_official_code():
    torch.manual_seed(0)
    model = official_dca()
    hook, layer = hook_of(model), SimpleNamespace()
    cache = SimpleNamespace(layers=[layer])
    rope = hook.turns[0].rope
    size = model.config.hidden_size // model.config.num_attention_heads
    query, key, value = torch.randn(3, 1, 1, 61, size)
    call = partial(AttentionCall, hook=hook, rope=rope, plan=hook.plan, cache=cache, scale=0.3)
    at = torch.arange(61)[None]
    read = [x[:, :, :60] for x in (query, key, value)]
    found = hook.method.attend(call(positions=at[:, :60]), *read)
    expected = by_the_official_code(hook, *read, 0.3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    exact = hook.method.plan(model.config)
    plain = dense(exact, rope, *read, at[:, :60], 0.3)
    assert (found - plain).abs().max() > 1e-3
    # the next token has its own factor, the cached ones keep that of the prompt's length
    new = hook.method.attend(call(positions=at), query[:, :, 60:], key, value)
    held = replace(exact, key_scale=lambda t: exact.key_scale(t.clamp(min=59)))
    expected = dense(held, rope, query[:, :, 60:], key, value, at, 0.3)
    torch.testing.assert_close(new, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"2 tokens were to be read after 59 .* prefill=exact"):
        hook.method.attend(call(positions=at), query[:, :, 59:], key, value)


def test_dca_with_the_official_prefill_generates_padded_rows_as_single_ones():
    model = official_dca()
    how = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    rows = [tokens(1, n, seed=n) for n in (50, 40)]
    ids = torch.cat([rows[0], torch.cat([torch.ones(1, 10, dtype=torch.long), rows[1]], 1)])
    mask = torch.ones_like(ids)
    mask[1, :10] = 0
    together = model.generate(ids, attention_mask=mask, **how)[:, 50:]
    for found, row in zip(together, rows, strict=True):
        alone = model.generate(row, attention_mask=torch.ones_like(row), **how)
        assert found.equal(alone[0, row.shape[1] :])


def test_dca_with_the_official_prefill_shares_nothing_and_trains_exactly():
    model = official_dca()
    method = method_of(model)
    assert method.reuse_key(model.config, 64) is None
    assert method.for_training(model.config).prefill == "exact"
    exact = replace(method, prefill="exact")
    assert exact.reuse_key(model.config, 64) is not None
