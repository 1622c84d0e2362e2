"""What every attention method owes, on every architecture: exactness, caches, padding."""

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ctxbench.methods.attach import attach
from ctxbench.methods.attention import AttentionMethod
from ctxbench.methods.kernels.dense import dense
from ctxbench.methods.kernels.plan import FULL
from ctxbench.methods.kernels.rope import Rope
from ctxbench.methods.kernels.tiled import tiled
from ctxbench.models.loading import extend
from tests.methods.tiny import ARCHITECTURES, tiny_config, tiny_model, tokens

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
    """Ordinary attention through the seam."""

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
        torch.testing.assert_close(
            found[i][mask[i].bool()], logits(model, row)[0], rtol=0, atol=ROUNDING
        )


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
    from ctxbench.methods.registry import get_method

    config = tiny_config(max_position_embeddings=64)
    method = get_method(name, length=512, **METHODS[name]).resolve(config)
    plan, rope = method.plan(config), Rope(tiny_model().model.rotary_emb)
    generator = torch.Generator().manual_seed(0)
    key, value = torch.randn(2, 1, heads[1], 150, 16, dtype=torch.float64, generator=generator)
    at = torch.arange(150)[None]
    for new in (150, 90, 2):
        query = torch.randn(1, heads[0], new, 16, dtype=torch.float64, generator=generator)
        expected = dense(plan, rope, query, key, value, at, 0.25)
        found = tiled(plan, rope, query, key, value, 0.25, block=block)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_stays_near(name):
    """Measured mean error 0.01 on logits of size about 5: bf16 weights and keys."""
    ids = tokens(1, 70)
    exact = logits(with_method(name, initializer_range=0.1), ids)
    rough = logits(with_method(name, initializer_range=0.1, dtype=torch.bfloat16), ids)
    assert (exact - rough.float()).abs().mean() < 0.02


@pytest.mark.parametrize("name", METHODS)
def test_save_and_load_give_equal_logits(name, tmp_path: Path):
    from ctxbench.models.loading import load_model, save_model

    model = with_method(name)
    save_model(model, None, tmp_path)
    from unittest.mock import patch

    with patch("ctxbench.models.loading.load_tokenizer"):
        again, _ = load_model(tmp_path)
    ids = tokens(1, 50)
    assert logits(again, ids).equal(logits(model, ids))
