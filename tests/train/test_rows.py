"""The rows of the paper: what they say, and that each trains."""

import re

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PhiConfig

from ctxbench import get_method, load_model
from ctxbench.core.assets import resolve_model
from ctxbench.models.loading import load_tokenizer
from ctxbench.train.config import make_config
from ctxbench.train.loop import train
from ctxbench.train.recipes import list_recipes, paper_rows
from tests.train.small import losses, small_data

NEEDED = {"data": "d", "output": "o"}
CONFIGS = {
    "meta-llama/Llama-2-7b-hf": (LlamaConfig, 4096, {"num_key_value_heads": 2}),
    "microsoft/phi-2": (PhiConfig, 2048, {"partial_rotary_factor": 0.5}),
}


@pytest.mark.parametrize("name", paper_rows())
def test_every_row_is_a_recipe_with_its_sources(name):
    row = paper_rows()[name]
    assert row.recipe in list_recipes()
    assert row.row
    assert len(row.differs) > 10
    config = make_config(name, NEEDED)
    assert config.model in CONFIGS
    assert config.method in name.replace("ntk-64k-1b-paper", "ntk").replace("-", "_") or (
        config.method == "dynamic_ntk" and "ntk" in name
    )
    assert config.tokens == pytest.approx(2e9 if "2b" in name else 1e9, rel=0.01)
    length = re.search(r"(\d+)k(-|$)", name)
    assert config.length == (int(length[1]) * 1024 if length else 512)


@pytest.mark.parametrize(
    ("name", "length", "alpha"),
    [
        ("llama2-7b-ntk-32k", 32768, 29),
        ("llama2-7b-ntk-32k", 65536, 61),
        ("llama2-7b-ntk-64k-1b-code", 65536, 121),
        ("llama2-7b-ntk-64k-2b-code", 4096, 121),
        ("phi2-ntk-32k", 32768, 121),
        ("phi2-ntk-64k", 65536, 497),
    ],
)
def test_rows_have_the_papers_alpha(name, length, alpha):
    config = make_config(name, NEEDED)
    kind, window, _ = CONFIGS[config.model]
    method = get_method(config.method, **config.options)
    assert method.alpha(kind(max_position_embeddings=window), length) == alpha


@pytest.mark.parametrize("name", paper_rows())
def test_every_row_trains_on_its_architecture(name, tmp_path):
    """Two updates on a tiny model of the same kind and window, at a short length."""
    kind, window, details = CONFIGS[make_config(name, NEEDED).model]
    torch.manual_seed(0)
    config = kind(
        vocab_size=1280, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=window, bos_token_id=0, eos_token_id=0,
        pad_token_id=0, **details,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    load_tokenizer(resolve_model("mini")).save_pretrained(tmp_path / "model")
    small_data(tmp_path / "data.jsonl", documents=60)
    values = {
        "model": str(tmp_path / "model"),
        "data": str(tmp_path / "data.jsonl"),
        "output": str(tmp_path / "out"),
        "length": 512,
        "tokens": 2048,
        "batch_size": 2,
        "warmup": 0,
        "save_every": 0,
        "lr": 1e-3,
    }
    train(make_config(name, values))
    assert len(losses(tmp_path / "out")) == 2
    model, _ = load_model(tmp_path / "out")
    options = make_config(name, NEEDED).options
    recorded = model.config.ctxbench["options"]
    assert {key: recorded[key] for key in options} == options
    with torch.no_grad():
        assert torch.isfinite(model(torch.arange(2, 66)[None]).logits).all()
