"""Frequencies against numbers made by the official implementations (golden/rope/README.md)."""

import json

import pytest
import torch
from transformers import LlamaConfig

from ctxbench import get_method

FILES = [
    "base_rope",
    "pi",
    "ntk_static",
    "ntk_table8",
    "ntk_dynamic_hf4352",
    "ntk_floor_lceg",
    "yarn",
    "yarn_dynamic",
    "transformers_5_23",
]


def method_of(record: dict):
    """Translate a golden record into our method and options."""
    kind = record["method"]
    given = {key: record[key] for key in ("factor", "alpha") if key in record}
    scaling = record.get("rope_parameters", {})
    if kind == "rope":
        return get_method("none")
    if kind in ("pi", "hf5_linear"):
        return get_method("pi", factor=given.get("factor") or scaling["factor"])
    if kind == "ntk_static":
        return get_method("ntk", alpha=record["alpha"])
    if kind in ("ntk_dynamic", "hf5_dynamic"):
        return get_method("dynamic_ntk", factor=given.get("factor") or scaling["factor"])
    if kind == "ntk_floor":
        return get_method("dynamic_ntk", factor=record["factor"], floor=record["floor_len"])
    if kind in ("yarn", "yarn_dynamic"):
        betas = {key: record[key] for key in ("beta_fast", "beta_slow") if key in record}
        dynamic = kind == "yarn_dynamic"
        return get_method("yarn", **betas, **({"dynamic": True} if dynamic else given))
    names = {"hf5_yarn": "yarn", "llama3": "llama3", "longrope": "longrope"}
    skip = ("rope_type", "original_max_position_embeddings")
    options = {key: value for key, value in scaling.items() if key not in skip}
    return get_method(names[kind], **options)


def config_of(record: dict) -> LlamaConfig:
    rope = {"rope_type": "default", "rope_theta": record["base"]}
    rope["partial_rotary_factor"] = record["rotary_dim"] / record["head_dim"]
    return LlamaConfig(
        hidden_size=record["head_dim"],
        num_attention_heads=1,
        head_dim=record["head_dim"],
        max_position_embeddings=record["orig_len"],
        rope_parameters=rope,
    )


@pytest.mark.parametrize("file", FILES)
def test_frequencies_match_the_official_code(golden_dir, file):
    records = json.loads((golden_dir / "rope" / f"{file}.json").read_text())["records"]
    assert len(records) >= 3
    for record in records:
        length = record.get("current_len") or record.get("seq_len_arg")
        # longrope without a length is the short set
        if length is None:
            kinds = ("longrope",)
            length = record["orig_len"] if record["method"] in kinds else record.get("target_len")
        inv_freq, scale = method_of(record).frequencies(
            config_of(record), length or record["orig_len"]
        )
        assert inv_freq.dtype == torch.float64
        expected = torch.tensor(record["inv_freq"], dtype=torch.float64)
        torch.testing.assert_close(inv_freq, expected, rtol=1e-12, atol=0)
        single = inv_freq.float().double()
        torch.testing.assert_close(single, expected, rtol=1e-6, atol=0)
        assert scale == pytest.approx(record["attention_scaling"], rel=1e-12)
        for row in record.get("rows", []):
            phase = row["pos"] * inv_freq
            for ours, theirs in ((phase.cos(), row["cos"]), (phase.sin(), row["sin"])):
                theirs = torch.tensor(theirs, dtype=torch.float64)
                torch.testing.assert_close(ours * scale, theirs, rtol=0, atol=1e-9)


def test_dynamic_ntk_is_stateless(golden_dir):
    traces = json.loads((golden_dir / "rope" / "ntk_dynamic_state_traces.json").read_text())
    for record in traces["records"]:
        method = get_method("dynamic_ntk", factor=record["factor"])
        config = config_of(record)
        alphas = [method.alpha(config, length) for length in record["lengths"]]
        assert alphas == pytest.approx(record["stateless_alpha"], rel=1e-9)


@pytest.mark.parametrize(
    ("preset", "alphas"),
    [  # alpha at 4k, 8k, 16k, 32k, 64k: Tables 7 to 9 of the paper, facts on NTK-64K in the README
        ("ntk-frozen", [1, 3, 7, 15, 31]),
        ("ntk-32k", [29, 29, 29, 29, 61]),
        ("ntk-64k-code", [121, 121, 121, 121, 121]),
    ],
)
def test_presets_have_the_papers_alpha(preset, alphas):
    config = LlamaConfig(max_position_embeddings=4096)
    method = get_method(preset)
    assert [method.alpha(config, 4096 * 2**i) for i in range(5)] == alphas


def test_ntk_64k_as_printed_is_57_everywhere():
    assert get_method("ntk-64k-paper").alpha == 57
