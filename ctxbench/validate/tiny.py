"""Tiny random models of every architecture, and a tokenizer, made in memory."""

from __future__ import annotations

from typing import Any

import torch

VOCABULARY = 100
WINDOW = 64
"""Tokens that a tiny model holds before it is extended."""

COMMON = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": WINDOW,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "initializer_range": 0.2,  # large, so that a wrong position moves the logits visibly
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "intermediate_size": 128},
    "mistral": {"num_key_value_heads": 2, "intermediate_size": 128, "sliding_window": None},
    "qwen2": {"num_key_value_heads": 2, "intermediate_size": 128},
    "qwen3": {"num_key_value_heads": 2, "intermediate_size": 128, "head_dim": 32},
    "gemma": {"num_key_value_heads": 1, "intermediate_size": 128, "head_dim": 32},
    "phi": {"intermediate_size": 128, "partial_rotary_factor": 0.5},
    "phi3": {"num_key_value_heads": 2, "intermediate_size": 128},
    "gpt_neox": {"intermediate_size": 128},
}


def tiny_config(architecture: str = "llama", **overrides: Any) -> Any:
    """Return the config of a tiny model."""
    from transformers import AutoConfig

    return AutoConfig.for_model(
        architecture, **{**COMMON, **ARCHITECTURES[architecture], **overrides}
    )


def tiny_model(architecture: str = "llama", seed: int = 0, **overrides: Any) -> Any:
    """Return a random model in float32, evaluation mode."""
    from transformers import AutoModelForCausalLM

    config = tiny_config(architecture, **overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).eval()


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return random token ids that are neither BOS nor EOS."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, VOCABULARY, shape, generator=generator)


def tiny_tokenizer() -> Any:
    """Return a tokenizer of the words `w2` ... `w99`, beside BOS and EOS."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", *(f"w{number}" for number in range(2, VOCABULARY))]
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="w2"))
    made.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="w2"
    )
