"""CLEX: official frequencies, exact gradients, what training draws, what a checkpoint keeps."""

import copy
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from ctxbench import get_method, load_model, save_model
from ctxbench.methods.attach import method_of
from ctxbench.methods.kernels.ode import solve, stage_times
from ctxbench.methods.rotary import rotary_dim
from ctxbench.models.loading import extend
from tests.methods.test_golden_rope import config_of
from tests.methods.tiny import tiny_model, tokens

FILES = ["clex_d16_silu", "clex_d128_tanh", "clex_phi2_d32_silu", "clex_zero_init_d16"]
QUIRK = "clex_base_quirk_d16"


def golden(golden_dir, file: str) -> dict:
    return json.loads((golden_dir / "rope" / f"{file}.json").read_text())


def clex_of(file: dict, **options):
    config = file["config"]
    return get_method(
        "clex",
        max_factor=config["max_factor"],
        hidden=config["param_factor"],
        activation=config["act"],
        step=config["time_dt"],
        **options,
    )


def weights_of(file: dict, dim: int, hidden: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the golden's up and down, float64; the formulas are those of its `weights`."""
    weights = file["weights"]
    if weights["kind"] == "explicit":
        up, down = weights["ode_up_proj"], weights["ode_down_proj"]
        return torch.tensor(up, dtype=torch.float64), torch.tensor(down, dtype=torch.float64)
    i, j = torch.arange(dim // 2)[:, None], torch.arange(hidden * dim)
    scale, seed = weights["scale"], weights["seed"]
    up = ((i * 7919 + j * 104729 + seed * 1299709) % 2001 - 1000) * 2.0**-15 * scale
    i, j = torch.arange(hidden * dim)[:, None], torch.arange(dim // 2)
    down = ((i * 15485863 + j * 32452843 + seed * 49979687) % 2003 - 1001) * 2.0**-18 * scale
    up, down = up.double(), (down * (not weights["zero_down"])).double()
    found = [up[0, 0], up[0, 1], up[1, 0]]
    assert torch.stack(found).tolist() == pytest.approx(weights["up_00_01_10"])
    return up, down


@pytest.mark.parametrize("file", [*FILES, QUIRK])
def test_frequencies_match_the_official_code(golden_dir, file):
    stored = golden(golden_dir, file)
    method = clex_of(stored, ignore_base=file == QUIRK)
    for record in stored["records"]:
        config = config_of(record)
        weights = weights_of(stored, record["rotary_dim"], method.hidden)
        found = method.solve(config, record["t"], *weights)
        expected = torch.tensor(record["inv_freq"], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
        assert record["attention_scaling"] == 1
        if record["t"] > 1 and file == QUIRK:  # the base it ignores matters
            ours = clex_of(stored).solve(config, record["t"], *weights)
            assert ((ours / expected - 1).abs().max()) > 1e-6


@pytest.mark.parametrize("factor", [1, 2, 7, 32])
def test_untrained_it_is_ntk(factor):
    config = tiny_model("llama").config
    window = config.max_position_embeddings
    ntk = get_method("ntk", alpha=2 * factor - 1, length=window * factor)
    ours, scale = get_method("clex", length=window * factor).frequencies(config, window * factor)
    # the solver's error at the default step; the drift alone is integrated
    torch.testing.assert_close(ours, ntk.frequencies(config, 1)[0], rtol=1e-6, atol=0)
    assert scale == 1


def test_the_default_step_is_accurate(golden_dir):
    stored = golden(golden_dir, "clex_d128_tanh")
    record = stored["records"][-1]
    weights = weights_of(stored, 128, 1)
    exact, ours = (
        get_method("clex", activation="tanh", step=step).solve(
            config_of(record), record["t"], *weights
        )
        for step in (0.0025, 0.04)
    )
    torch.testing.assert_close(ours, exact, rtol=1e-7, atol=0)


@pytest.mark.parametrize("activation", ["silu", "tanh"])
def test_gradients_equal_finite_differences(activation):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    state, up, down = draw(4), draw(4, 6), draw(6, 4)
    sizes, times = stage_times(1.0, 2.33, 0.25)
    assert sizes.sum() == pytest.approx(1.33)
    inputs, drift = times[..., None] * [0.1, -0.3, 0.2, 1], times[..., None] * [1, 0.5, -0.2, 0]
    assert torch.autograd.gradcheck(
        lambda *tensors: solve(*tensors, sizes, inputs, drift, activation), (state, up, down)
    )


def test_frequencies_are_kept_until_the_weights_change():
    model = extend(tiny_model("llama"), "clex", length=256)
    rotary = model.base_model.rotary_emb
    ids = tokens(1, 70)
    with torch.no_grad():
        first, kept = model(ids).logits, rotary.at_stretch(2)
        assert rotary.at_stretch(2) is kept
    optimizer = torch.optim.AdamW([rotary.down], lr=0.1)
    model(ids, labels=ids).loss.backward()
    assert rotary.down.grad.abs().sum() > 0
    optimizer.step()
    with torch.no_grad():
        assert not rotary.at_stretch(2).equal(kept)
        assert not model(ids).logits.equal(first)


def trained(architecture: str, **options):
    """Return an extended model whose weights of the equation are not those of the start."""
    model = extend(tiny_model(architecture), "clex", length=256, **options)
    rotary = model.base_model.rotary_emb
    with torch.no_grad():
        rotary.down.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    return model


def test_a_checkpoint_keeps_the_tensors(tmp_path):
    model, tokenizer = load_model("mini", "clex", length=1024)
    ids = tokens(1, 600)
    with torch.no_grad():
        untrained = model(ids).logits
        down = model.base_model.rotary_emb.down
        down.normal_(0, 0.01, generator=torch.Generator().manual_seed(1))
        expected = model(ids).logits
    assert not expected.allclose(untrained, atol=1e-2)
    save_model(model, tokenizer, tmp_path, trained_length=1024)
    with torch.no_grad():
        assert load_model(tmp_path)[0](ids).logits.equal(expected)
        again = extend(load_model(tmp_path)[0], None, length=2048)
        assert again.base_model.rotary_emb.down.equal(down)
    with pytest.raises(Exception, match="needs_ctxbench_method_clex"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    (tmp_path / "ctxbench_state.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"clex\.up"):
        load_model(tmp_path)


def test_cast_models_keep_exact_frequencies():
    model = trained("llama").to(torch.bfloat16)
    rotary = model.base_model.rotary_emb
    assert rotary.up.dtype == torch.float32
    with torch.no_grad():
        exact = trained("llama").base_model.rotary_emb.at_stretch(3)
        assert rotary.at_stretch(3).equal(exact)


CONFIG = {"base": 1e4, "rotary_dim": 16, "head_dim": 16, "orig_len": 256}


@pytest.mark.parametrize("length", [256, 512, 1024])
@pytest.mark.parametrize("sampling", ["matched", "official"])
def test_what_training_draws(sampling, length):
    method = get_method("clex", length=1024, max_factor=8, sampling=sampling)
    method = method.resolve(config_of(CONFIG))
    ids = torch.zeros(2, length, dtype=torch.long)
    seen = set()
    for step in range(60):
        batch = method.edit_batch({"input_ids": ids}, torch.Generator().manual_seed(step))
        again = method.edit_batch({"input_ids": ids}, torch.Generator().manual_seed(step))
        positions, t = batch["clex_positions"][0], int(batch["clex_stretch"][0])
        assert positions.equal(again["clex_positions"][0])
        assert positions.equal(batch["clex_positions"][1])
        assert positions[0] == 0
        assert positions.max() < 256 * t
        seen.add(t)
        if "position_ids" in batch:
            assert sampling == "matched"
            assert 256 * t < length
            assert positions.tolist() == [i % (256 * t) for i in range(length)]
            assert batch["position_ids"][0].equal(positions.long())
        else:
            squeeze = length // 256 if sampling == "official" else 1
            assert (positions.diff() > 0).all()
            assert positions[-1] == (256 * t * squeeze - 1) / squeeze
    assert seen == set(range(1, 9))


def test_pieces_begin_with_documents_too():
    method = get_method("clex", length=256, max_factor=1, sampling="matched").resolve(
        config_of(CONFIG)
    )
    documents = torch.cat((torch.arange(100), torch.arange(412)))[None]
    batch = {"input_ids": torch.zeros(1, 512), "position_ids": documents}
    found = method.edit_batch(batch, torch.Generator())["position_ids"][0]
    assert (found == 0).nonzero()[:, 0].tolist() == [0, 100, 256]


def test_pieces_do_not_see_each_other():
    model = extend(tiny_model("llama"), "clex", length=64, max_factor=1, sampling="matched").train()
    ids = tokens(1, 128)
    batch = method_of(model).edit_batch({"input_ids": ids}, torch.Generator())
    with torch.no_grad():
        whole = model.base_model(**batch, use_cache=False).last_hidden_state
        apart = model.base_model(ids.view(2, 64)).last_hidden_state
    torch.testing.assert_close(whole.view(2, 64, -1), apart, rtol=0, atol=1e-5)


def test_drawn_positions_reach_the_rotation_and_gradients_the_weights():
    model = extend(
        tiny_model("llama"), "clex", length=256, max_factor=4, sampling="matched"
    ).train()
    rotary, ids = model.base_model.rotary_emb, tokens(2, 128)
    method = method_of(model)
    for step in range(20):
        batch = method.edit_batch({"input_ids": ids}, torch.Generator().manual_seed(step))
        if batch["clex_stretch"][0] == 4:
            break
    model.base_model(**batch)
    positions, t = rotary.drawn
    assert t == 4
    assert positions.max() == model.config.ctxbench["original_length"] * 4 - 1
    cos, _ = rotary(torch.zeros(1), torch.arange(128)[None])
    phase = positions[0, :, None] * rotary.at_stretch(4)
    assert cos[0, :, : rotary_dim(model.config) // 2].allclose(phase.cos().float(), atol=1e-6)
    cos.sum().backward()
    assert rotary.down.grad.abs().sum() > 0
    model.eval()(ids)
    assert rotary.drawn is None


def test_log_scale_multiplies_the_scores():
    plain, scaled = trained("llama"), trained("llama", log_scale="evaluation")
    ids = tokens(1, 200)
    window = plain.config.ctxbench["original_length"]
    by_hand = copy.deepcopy(plain)
    factor = torch.log(torch.tensor(200.0)) / torch.log(torch.tensor(float(window)))
    for layer in by_hand.base_model.layers:
        layer.self_attn.scaling *= factor.item()
    with torch.no_grad():
        expected, found = by_hand(ids).logits, scaled(ids).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)  # logits up to 10
        assert not found.allclose(plain(ids).logits, atol=1e-3)
        scaled.train()
        assert scaled(ids).logits.equal(plain.train()(ids).logits)


def test_what_cannot_be_is_refused():
    config = tiny_model("llama").config
    window = config.max_position_embeddings
    with pytest.raises(ValueError, match=f"{window * 4 + 1} tokens were asked for"):
        get_method("clex", max_factor=4, length=window * 4 + 1).resolve(config)
    with pytest.raises(ValueError, match="train with max_factor=5"):
        get_method("clex", max_factor=4).frequencies(config, window * 4 + 1)
    with pytest.raises(ValueError, match="rotates"):
        extend(tiny_model("phi"), "clex", length=256, log_scale="always")
