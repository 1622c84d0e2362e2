"""What a run costs: the formulas on Llama-2-7B, and the model of memory against measurements."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaConfig

from ctxbench.train.config import make_config
from ctxbench.train.cost import describe_cost, training_cost
from tests.train.small import small_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)
    return str(folder)


def cost(llama, processes=None, **values):
    config = make_config(None, {"model": llama, "data": "d", "output": "o", **values})
    return training_cost(config, processes)


def test_parameters_are_those_of_llama_2_7b(llama):
    found = cost(llama)
    assert found.shape.parameters == 6_738_415_616
    assert found.shape.trained == found.shape.parameters


# GFLOP per token by 6 N + 6 L d S with N = 6.607 B, worked out by hand
OPERATIONS = [
    ({"length": "4k"}, 42.9),
    ({}, 65.4),
    ({"length": "64k"}, 91.2),
    ({"length": "128k"}, 142.7),
    ({"method": "pi", "lora_rank": 8}, 52.2),  # 4 N: no gradients of frozen weights
    ({"method": "longlora"}, 32.9),  # and a quarter of the attention
    ({"method": "longlora", "options": {"rank": 0}}, 46.1),
    ({"method": "landmark", "length": 512}, 40.0),
    ({"method": "clex"}, 65.4),
]


@pytest.mark.parametrize(("values", "gigaflops"), OPERATIONS, ids=lambda v: str(v)[:40])
def test_operations_per_token(llama, values, gigaflops):
    assert cost(llama, **values).flops / 1e9 == pytest.approx(gigaflops, abs=0.07)


def test_what_is_computed_again(llama):
    full, selective, none = (
        cost(llama, activation_checkpointing=mode) for mode in ("full", "selective", "none")
    )
    assert full.computed_flops == pytest.approx(full.flops * 4 / 3)  # forward twice
    assert none.computed_flops == none.flops
    again = selective.computed_flops - selective.flops
    assert again == pytest.approx(2 * 6.607e9, rel=1e-3)  # without attention


def test_memory_of_the_published_setup(llama):
    """Bytes by hand: 16 per trained weight, 4 n d for each layer's input."""
    found = cost(llama).memory
    states = found["weights"] + found["gradients"] + found["optimizer"]
    assert states == pytest.approx(107.8e9, rel=1e-3)
    assert found["layer inputs"] == pytest.approx(32 * 32768 * 4096 * 4)
    assert sum(found.values()) < 139 * 2**30, "one H200 holds it"
    eight = cost(llama, processes=8, shard=8, ema_decay=0.9, batch_size=8).memory
    assert eight["moving average"] == pytest.approx(27.0e9 / 8, rel=2e-3)
    assert eight["weights"] + eight["optimizer"] == pytest.approx(80.9e9 / 8, rel=2e-3)
    assert sum(eight.values()) < 80 * 2**30, "eight A100s hold it without offloading"
    shared = cost(llama, processes=8, shard=8, sequence_parallel=8, length="256k", batch_size=8)
    assert shared.memory["layer inputs"] == pytest.approx(32 * 32768 * 4096 * 4)
    assert cost(llama, activation_offload=True).memory["layer inputs"] == 0


def test_dry_run_names_all_parts(llama):
    values = {"model": llama, "data": "d", "output": "o", "shard": 8, "sequence_parallel": 2}
    config = make_config(None, values)
    text = "\n".join(describe_cost(config, training_cost(config, 8), 8))
    assert "rows shared by 2, weights cut over 8" in text
    assert "65.41 GFLOP per token (87.22 with what is computed again)" in text
    assert "gathered weights" in text
    assert "a checkpoint takes 75.3 GiB of disk" in text


ROWS = [
    "none-32k", "pi-32k", "ntk-32k", "ntk-64k-1b-code", "yarn-32k", "clex-32k", "longlora-32k",
    "landmark-512",
]  # fmt: skip


def costs_table(llama: str) -> str:
    """The table of train/README.md."""
    lines = [
        "| recipe | GFLOP per token | hours, 8 x A100 | hours, 8 x H100 | GiB per GPU |",
        "|---|---|---|---|---|",
    ]
    for row in ROWS:
        values = {"model": llama, "data": "d", "output": "o", "shard": 8}
        config = make_config(f"llama2-7b-{row}", values)
        found = training_cost(config, 8)
        work = found.flops * config.steps * config.tokens_per_step
        hours = [f"{work / (8 * peak * 1e12 * 0.4) / 3600:.1f}" for peak in (312, 989)]
        memory = f"{sum(found.memory.values()) / 2**30:.0f}"
        cells = [f"`llama2-7b-{row}`", f"{found.flops / 1e9:.1f}", *hours, memory]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def test_costs_in_the_readme_are_these(llama):
    text = (Path(__file__).resolve().parents[2] / "train" / "README.md").read_text()
    inside = text.partition("<!-- begin costs -->\n")[2].partition("<!-- end costs -->")[0]
    assert inside == costs_table(llama)


SHAPES = {
    "weights": (
        {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8},
        {"length": 64, "activation_checkpointing": "none"},
    ),
    "activations": (
        {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 16},
        {"length": 2048, "activation_checkpointing": "none"},
    ),
    "recomputed": (
        {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 10},
        {"length": 3072, "activation_checkpointing": "full", "method": "pi", "lora_rank": 8},
    ),
}


def measured(folder: Path, values: dict) -> int:
    worker = Path(__file__).with_name("memory_worker.py")
    # big blocks go back to the system at once, so that resident memory is what is in use
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    line = [sys.executable, str(worker), json.dumps(values)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.split()[-1])


def run_values(folder: Path, name: str, shape: dict, **values) -> dict:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 4096}
    small_model(folder / name, **{**heads, **shape})
    return {
        "model": str(folder / name), "data": str(folder / "tokens.npy"), "warmup": 1,
        "output": str(folder / f"{name}_out"), "batch_size": 1, "tokens": 2 * values["length"],
        "dtype": "fp32", "save_every": 0, **values,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("name", SHAPES)
def test_memory_is_within_15_percent_of_what_was_measured(tmp_path, name):
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 1280, 10_000))
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    empty = measured(tmp_path, run_values(tmp_path, "tiny", tiny, length=32))
    shape, values = SHAPES[name]
    values = run_values(tmp_path, name, shape, **values)
    found = measured(tmp_path, values) - empty
    expected = sum(training_cost(make_config(None, values)).memory.values())
    print(name, f"{found / 2**20:.0f} MiB measured, {expected / 2**20:.0f} estimated")
    assert expected == pytest.approx(found, rel=0.15)
