"""A small model on disk, small data, and the configs that train it in a second."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from ctxbench.core.assets import resolve_model
from ctxbench.models.loading import load_tokenizer
from ctxbench.train.config import TrainConfig, make_config

WORDS = ["import", "os", "class", "def", "return", "self", "value", "for", "in", "range", "None"]


METHODS = {
    "pi": {"method": "pi"},
    "lora": {"method": "pi", "lora_rank": 4},
    # at 0.01 its frequencies move so far that Adam makes rounding visible within six updates
    "clex": {"method": "clex", "options": {"max_factor": 4, "step": 0.2}, "lr": 0.002},
    "longlora": {"method": "longlora", "options": {"rank": 4}},
    "landmark": {
        "method": "landmark",
        "options": {"block": 8, "top_k": 1, "trained_length": 32},
    },
}
"""Settings of `small_config` that differ in what trains and how."""


def small_model(folder: Path, **overrides) -> Path:
    """A random Llama with the bundled tokenizer, window 16."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **{
            "vocab_size": 1280,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 16,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
            "initializer_range": 0.1,
            **overrides,
        }
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    load_tokenizer(resolve_model("mini")).save_pretrained(folder)
    return folder


def small_data(file: Path, documents: int = 40) -> Path:
    """Documents of different lengths, as jsonl."""
    with open(file, "w") as stream:
        for number in range(documents):
            words = [WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(20 + number)]
            stream.write(json.dumps({"text": " ".join(words)}) + "\n")
    return file


def small_config(folder: Path, **values) -> TrainConfig:
    """Six updates of four rows of 32 tokens."""
    if not (folder / "model").exists():
        small_model(folder / "model")
        small_data(folder / "data.jsonl")
    length, rows = values.get("length", 32), values.get("batch_size", 4)
    return make_config(
        None,
        {
            "model": str(folder / "model"),
            "data": str(folder / "data.jsonl"),
            "output": str(folder / "out"),
            "length": length,
            "batch_size": rows,
            "tokens": values.pop("steps", 6) * length * rows,
            "lr": 0.01,
            "warmup": 2,
            "dtype": "fp32",
            "activation_checkpointing": "none",
            "save_every": 0,
            **values,
        },
    )


def losses(folder: Path) -> list[float]:
    """The loss curve of a run, from its metrics."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    assert [m["step"] for m in metrics] == list(range(1, len(metrics) + 1))
    return [m["loss"] for m in metrics]


def interrupt_at(step: int):
    """A learning rate that interrupts the run before an update, counted from 0."""
    from ctxbench.train.schedule import learning_rate

    def rate(config, now):
        if now == step:
            raise KeyboardInterrupt
        return learning_rate(config, now)

    return rate
