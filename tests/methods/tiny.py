"""Tiny random models of every architecture, made in memory."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

COMMON = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "initializer_range": 0.2,  # large, so that a wrong position moves the logits visibly
}

ARCHITECTURES = {
    "llama": {"num_key_value_heads": 2, "intermediate_size": 128},
    "mistral": {"num_key_value_heads": 2, "intermediate_size": 128, "sliding_window": None},
    "qwen2": {"num_key_value_heads": 2, "intermediate_size": 128},
    "qwen3": {"num_key_value_heads": 2, "intermediate_size": 128, "head_dim": 32},
    "gemma": {"num_key_value_heads": 1, "intermediate_size": 128, "head_dim": 32},
    "phi": {"intermediate_size": 128, "partial_rotary_factor": 0.5},
    "phi3": {"num_key_value_heads": 2, "intermediate_size": 128},
    "gpt_neox": {"intermediate_size": 128},
}


def tiny_config(architecture: str = "llama", **overrides):
    return AutoConfig.for_model(
        architecture, **{**COMMON, **ARCHITECTURES[architecture], **overrides}
    )


def tiny_model(architecture: str = "llama", seed: int = 0, **overrides):
    """A random model in float32, evaluation mode."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(tiny_config(architecture, **overrides)).eval()


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random token ids that are neither BOS nor EOS."""
    return torch.randint(2, 100, shape, generator=torch.Generator().manual_seed(seed))
