"""Exported checkpoints: other engines compute what the method says."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

import ctxbench
from ctxbench.cli import main
from ctxbench.core.assets import resolve_model
from ctxbench.methods.attach import method_of
from ctxbench.models.choosing import choose_method
from ctxbench.models.export import FAR, PHASE_ERROR, export_checkpoint, standard_rope
from tests.methods.tiny import tiny_config, tiny_model, tokens

CASES = {  # method, options, the stock type it becomes
    "pi": ("pi", {}, "linear"),
    "longlora": ("longlora", {}, "linear"),
    "yarn": ("yarn", {}, "yarn"),
    "yarn-attention": ("yarn", {"attention_factor": 1.5}, "yarn"),
    "yarn-paper": ("yarn", {"ramp": "paper"}, "longrope"),
    "llama3": ("llama3", {}, "llama3"),
    "ntk": ("ntk", {"alpha": 57.0}, "default"),
    "abf": ("abf", {}, "default"),
    "dynamic_ntk-floor": ("dynamic_ntk", {"factor": 4, "floor": 262144}, "default"),
    "ntk-32k": ("ntk-32k", {}, "default"),
    "longrope": ("longrope", {"long_factor": [1 + j / 3 for j in range(64)]}, "longrope"),
    "none": ("none", {}, "default"),
}
LLAMA2 = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
}


def stock_frequencies(rope: dict, dim: int, length: int) -> torch.Tensor:
    """The stock types' published formulas in float64, written apart from ctxbench.

    transformers computes the same in float32 (modeling_rope_utils.py).
    """
    theta = rope["rope_theta"] ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    kind, factor = rope["rope_type"], rope.get("factor")
    original = rope.get("original_max_position_embeddings")
    if kind == "linear":
        return theta / factor
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        wavelength = 2 * math.pi / theta
        smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
        return (1 - smooth) * theta / factor + smooth * theta
    if kind == "yarn":

        def dimension(turns):
            return (
                dim
                * math.log(original / (turns * 2 * math.pi))
                / (2 * math.log(rope["rope_theta"]))
            )

        low = max(math.floor(dimension(rope["beta_fast"])), 0)
        high = min(math.ceil(dimension(rope["beta_slow"])), dim - 1)
        ramp = ((torch.arange(dim // 2, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
        return theta / factor * ramp + theta * (1 - ramp)
    if kind == "longrope":
        chosen = rope["long_factor"] if length > original else rope["short_factor"]
        return theta / torch.tensor(chosen, dtype=torch.float64)
    assert kind == "default"
    return theta


@pytest.mark.parametrize("case", CASES)
def test_phases_at_256k_are_the_methods(case):
    name, options, kind = CASES[case]
    length = 32768 if name in ("ntk-32k", "none") else FAR
    config = tiny_config(**LLAMA2)
    method, _ = choose_method(config, name, length=length, **options)
    rope = json.loads(json.dumps(standard_rope(config, method)))  # as a file gives it back
    assert rope["rope_type"] == kind
    for request in (4096, 4097, length):
        wanted, scale = method.frequencies(config, request)
        error = (stock_frequencies(rope, 128, request) - wanted).abs().max() * FAR
        assert error <= PHASE_ERROR, f"{error} rad at {request}"
        default = 0.1 * math.log(rope["factor"]) + 1 if kind == "yarn" else 1.0
        assert rope.get("attention_factor", default) == pytest.approx(scale, rel=1e-12)
        if "attn_factor" in rope:  # vLLM's yarn multiplies its own factor by it
            assert rope["attn_factor"] * default == pytest.approx(scale, rel=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "phi", "phi3"])
@pytest.mark.parametrize("case", [case for case in CASES if case not in ("ntk-32k", "none")])
def test_plain_transformers_gives_equal_logits(case, architecture, tmp_path):
    name, options, _ = CASES[case]
    base = tiny_model(architecture)
    base.save_pretrained(tmp_path / "base")
    pairs = base.config.hidden_size // base.config.num_attention_heads // 2
    if "long_factor" in options:
        pairs = int(pairs * (base.config.rope_parameters.get("partial_rotary_factor") or 1))
        options = {"long_factor": [1.0 + j for j in range(pairs)]}
    done = export_checkpoint(tmp_path / "base", tmp_path / "out", name, length=256, **options)
    ids = tokens(2, 200)  # beyond the window of 64
    wanted = ctxbench.extend(base, name, length=256, **options)(ids).logits
    plain = AutoModelForCausalLM.from_pretrained(done.folder)
    assert plain.config.max_position_embeddings == 256
    # float32 frequencies there, float64 phases here for methods without a stock module
    assert torch.allclose(plain(ids).logits, wanted, atol=2e-4, rtol=0)


def test_our_own_loader_knows_the_method_again(tmp_path):
    export_checkpoint("mini", tmp_path / "out", "dynamic_ntk", length=1024, factor=2, floor=1024)
    model, tokenizer = ctxbench.load_model(tmp_path / "out")
    assert method_of(model).name == "dynamic_ntk"
    assert len(tokenizer) == 1280
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["rope_theta"] == saved["rope_parameters"]["rope_theta"] > 1000
    assert saved["rope_scaling"] is None


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dynamic_ntk", {}, "follow the length of each request.*floor=N"),
        ("dynamic_ntk", {"floor": 512}, "follow the length of each request.*floor=N"),
        ("yarn", {"dynamic": True}, "follow the length"),
        ("clex", {"max_factor": 16}, "follow the length"),
        ("self_extend", {}, "changes what tokens attend to.*Run it with --model ctxext"),
        ("landmark", {}, "changes what tokens attend to"),
    ],
)
def test_what_no_stock_type_says_is_refused(name, options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        export_checkpoint("mini", tmp_path / "out", name, length=1024, **options)
    assert not (tmp_path / "out").exists()


def test_trained_tensors_are_not_lost_silently(tmp_path):
    model, tokenizer = ctxbench.load_model("mini", "clex", length=1024, max_factor=16)
    ctxbench.save_model(model, tokenizer, tmp_path / "clex", trained_length=1024)
    with pytest.raises(ValueError, match="trained tensors of its own"):
        export_checkpoint(tmp_path / "clex", tmp_path / "out")


def test_pickles_are_not_copied_and_an_export_overwrites_nothing(tmp_path):
    source = tmp_path / "source"
    ctxbench.save_model(*ctxbench.load_model("mini", "pi", length=512), source)
    (source / "training_args.bin").write_bytes(b"\x80\x04.")
    export_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out" / "training_args.bin").exists()
    with pytest.raises(ValueError, match="not empty"):
        export_checkpoint(source, tmp_path / "out")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no \.safetensors weights"):
        export_checkpoint(source, tmp_path / "other")


def test_command(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["export", "mini", out, "--method", "yarn", "--length", "1k"]) == 0
    assert "vllm serve" in capsys.readouterr().out
    assert main(["export", "mini", out + "2", "--method", "dca", "--length", "1k"]) == 2
    assert "cannot be exported" in capsys.readouterr().err
    assert resolve_model("mini")
