"""Architectures x what trains x methods: train two updates, export, open again in every way."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PhiConfig,
    Qwen3Config,
)

import ctxbench
from ctxbench.core.assets import resolve_model
from ctxbench.methods.adapters import load_adapters
from ctxbench.models.loading import load_tokenizer
from ctxbench.train.loop import train
from tests.train.small import small_config, small_data

ARCHITECTURES = {
    "llama": (LlamaConfig, {}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "mixtral": (MixtralConfig, {"num_local_experts": 4, "sliding_window": None}),
    "qwen3": (Qwen3Config, {"head_dim": 16}),
    "gemma2": (Gemma2Config, {"head_dim": 16, "sliding_window": 4096}),
    "phi": (PhiConfig, {}),
}
TRAINS = ("full", "lora", "lora + embed + norm")
METHODS = ("pi", "yarn", "dynamic_ntk", "clex", "longlora")
IDS = torch.arange(10, 42)[None]


@dataclass(frozen=True)
class Case:
    """One cell."""

    architecture: str
    trains: str
    tied: bool
    padded: bool
    method: str


def cases() -> list[Case]:
    """The whole grid."""
    return [
        Case(*each)
        for each in product(ARCHITECTURES, TRAINS, (False, True), (False, True), METHODS)
    ]


def pairwise() -> list[Case]:
    """A sample in which every two values of different columns meet, chosen greedily."""
    left, chosen, every = set(), [], cases()
    for case in every:
        left |= _pairs(case)
    while left:
        best = max(every, key=lambda case: len(_pairs(case) & left))
        chosen.append(best)
        left -= _pairs(best)
    return chosen


def _pairs(case: Case) -> set:
    values = list(enumerate(vars(case).values()))
    return {(one, two) for one in values for two in values if one[0] < two[0]}


def outcome(folder: Path, case: Case) -> str:
    """Train a case and open it in every way.

    Returns:
        `equal`, or the first words of the refusal.

    Raises:
        AssertionError: a reader computes something else.
    """
    config = _config(folder, case)
    try:
        train(config)
    except ValueError as error:
        return f"refused: {error}"
    ours, _ = ctxbench.load_model(config.output)
    with torch.no_grad():
        wanted = ours(IDS).logits
    plain = _plain(config.output)
    if plain is not None:
        assert float((plain - wanted).abs().max()) < 1e-5, "plain transformers differs"
    if (Path(config.output) / "adapter").is_dir():
        base, _ = ctxbench.load_model(config.model, case.method, **_options(case), length=32)
        adapted = load_adapters(base, f"{config.output}/adapter").eval()
        with torch.no_grad():  # merged in another order
            assert float((adapted(IDS).logits - wanted).abs().max()) < 1e-3, "peft= differs"
    return "equal"


def _options(case: Case) -> dict:
    if case.method == "clex":
        return {"max_factor": 4, "step": 0.2}
    if case.method == "longlora":
        return {"rank": 0 if case.trains == "full" else 4}
    return {"factor": 1.0, "floor": 32} if case.method == "dynamic_ntk" else {}


def _config(folder: Path, case: Case):
    cls, own = ARCHITECTURES[case.architecture]
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 1344 if case.padded else 1280, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
        "max_position_embeddings": 16, "tie_word_embeddings": case.tied, "initializer_range": 0.1,
    }  # fmt: skip
    AutoModelForCausalLM.from_config(cls(**{**sizes, **own})).save_pretrained(folder / "model")
    load_tokenizer(resolve_model("mini")).save_pretrained(folder / "model")
    small_data(folder / "data.jsonl")
    adapters = case.trains != "full" and case.method != "longlora"
    also = {"lora_also": ("embed", "norm")} if adapters and "embed" in case.trains else {}
    return small_config(
        folder, method=case.method, options=_options(case), steps=2, warmup=0,
        **({"lora_rank": 4} if adapters else {}), **also,
    )  # fmt: skip


def _plain(folder: str) -> torch.Tensor | None:
    """What plain transformers computes, None where it refuses by name."""
    try:
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
    except (ValueError, KeyError) as error:
        if "needs_ctxbench_method" in str(error):
            return None
        raise
    with torch.no_grad():
        return model(IDS).logits
