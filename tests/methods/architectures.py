"""Every causal model of the installed transformers, tiny and random, under every kind of method.

`python -m tests.methods.architectures` scans all and writes `ctxbench/architectures.json`, from
which `docs/models.md` and `ctxbench ls models` are made. What is not in `NEEDS` gets `SMALL` only.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import re
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ctxbench.methods.rope_settings import SCALINGS, rope_settings
from ctxbench.models.loading import extend

METHODS = (
    *("pi", "ntk", "dynamic_ntk", "yarn", "llama3", "clex"),
    *("lm_infinite", "streaming_llm", "self_extend", "dca", "rerope", "longlora"),
)
LENGTH = 2048
TABLE = Path(__file__).resolve().parents[2] / "ctxbench" / "architectures.json"
LARGEST = 8_000_000
"""Parameters of a tiny model, at most."""

SMALL = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim"), 96),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 512),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "n_group", "topk_group"), 1),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size",
         "moe_shared_expert_intermediate_size"), 32,
    ),
    **{"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 160, "rotary_dim": 8},
    **{"first_k_dense_replace": 1, "q_lora_rank": 24, "kv_lora_rank": 16, "v_head_dim": 16},
    **{"qk_rope_head_dim": 8, "qk_nope_head_dim": 8},
    "initializer_range": 0.1,  # attention that is not flat: positions matter
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}  # fmt: skip
_MLA = {"head_dim": 8, "qk_head_dim": 16, "num_key_value_heads": 4}
_INDEXED = {
    **_MLA,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 1024,
}
_GEMMA = {"num_hidden_layers": 6}
_BOTH = ["linear_attention", "full_attention"] * 2
_SLIDES = ["sliding_attention", "full_attention"] * 2
_BOTH_SEE = {"layer_types": _SLIDES}
_GEMMA4 = {
    **dict.fromkeys(("head_dim", "num_key_value_heads", "num_attention_heads")),
    **{"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 160, "num_hidden_layers": 6},
}
NEEDS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("deepseek_v3", "youtu", "longcat_flash", "axk1", "glm4_moe_lite"), _MLA),
    **dict.fromkeys(("deepseek_v32", "axk2", "glm_moe_dsa", "hy_v4"), _INDEXED),
    **dict.fromkeys(("gemma3_text", "olmo3"), _GEMMA),
    **dict.fromkeys(("mellum", "laguna", "modernbert-decoder"), _BOTH_SEE),
    **dict.fromkeys(("gemma4_text", "gemma4_unified_text"), _GEMMA4),
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "layer_types": _SLIDES,
        "intermediate_size": 96,
        "activation_sparsity_pattern": None,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 160,
        "laurel_rank": 8,
    },
    "bailing_hybrid": {**_MLA, "layer_types": _BOTH, "linear_num_heads": 4, "linear_head_dim": 16},
    "mimo_v2_flash": {"head_dim": 24},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"] * 2,
        "position_embedding_type": "rope",
    },
    "lfm3": {"layer_types": ["conv", "full_attention"] * 2},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "use_mem_rope": True},
    "bamba": {"attn_layer_indices": [1, 3]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "falcon": {"head_dim": None},
    "gpt_oss": {
        "rope_parameters": {
            **{"rope_type": "yarn", "rope_theta": 150000.0, "factor": 4.0, "truncate": False},
            "original_max_position_embeddings": 128,
        }
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "cohere_compass_text": {"layer_types": ["full_attention"] * 4},
}
"""What a kind wants besides; None takes a setting out of `SMALL`."""
WORKS = "works"


def kinds() -> list[str]:
    """Return the model types of all causal models."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny(kind: str, **more: Any) -> Any:
    """Return a small config."""
    return tiny_of(CONFIG_MAPPING[kind], {**NEEDS.get(kind, {}), **more})


def tiny_of(config_class: Any, more: dict[str, Any]) -> Any:
    """Return a small config of a class."""
    default = config_class()
    there = {*default.to_dict(), *type(default).attribute_map}
    wanted = {**{name: value for name, value in SMALL.items() if name in there}, **more}
    text = getattr(default, "text_config", None)
    if text is not None and not isinstance(text, dict):
        part = tiny_of(type(text), NEEDS.get(text.model_type, {}))
        wanted = {"text_config": part.to_dict(), **more}
    return config_class(**{name: value for name, value in wanted.items() if value is not None})


def model_of(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Return a random model, the same for the same config.

    Raises:
        ValueError: it would not be small.
    """
    with torch.device("meta"):
        size = sum(
            p.numel() for p in AutoModelForCausalLM.from_config(copy.deepcopy(config)).parameters()
        )
    if size > LARGEST:
        raise ValueError(f"{size / 1e6:.0f} million parameters even when small")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def outcome(kind: str, method: str) -> str:
    """Return `works`, or the refusal. Anything else raises."""
    model = model_of(tiny(kind))
    options = {"override": True} if _scaled(model.config) else {}
    try:
        extend(model, method, length=LENGTH, **options)
    except ValueError as error:
        return _reason(str(error))
    ids = torch.randint(3, 160, (1, 600), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(ids).logits
        assert logits.isfinite().all(), f"{kind} {method}: not finite"
        new = model.generate(ids[:, :40], max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert new.shape == (1, 43), f"{kind} {method}: {new.shape}"
    return WORKS


def scan(kind: str) -> dict[str, str]:
    """Return the outcome of every method on a kind, or under `all` why none was tried."""
    try:
        config = CONFIG_MAPPING[kind]()
        if getattr(config, "is_encoder_decoder", False):
            return {"all": "an encoder with a decoder"}
        if (text := config.get_text_config()) is not config:
            return {"all": f"reads more than text; its text part is a {text.model_type}"}
        small = model_of(tiny(kind))
        with torch.no_grad():
            small(torch.arange(3, 19)[None])
    except Exception as error:
        return {"all": f"not looked at: no small model of it could be made ({_reason(str(error))})"}
    found = {method: outcome(kind, method) for method in METHODS}
    return {"all": found[METHODS[0]]} if len(set(found.values())) == 1 else found


def _reason(message: str) -> str:
    """Return the reason out of a refusal: one short line without numbers that differ by machine."""
    line = " ".join(message.split()).partition(". ")[0]
    line = re.sub(r"method=\w+ ", "", line)
    line = re.sub(r"by [\d.e+-]+ of", "of", line)
    return line[:200]


def _scaled(config: Any) -> bool:
    return rope_settings(config.get_text_config()).get("rope_type") in SCALINGS


def main() -> None:
    """Scan all kinds, or those that are named, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help="default: all")
    named = parser.parse_args().kinds
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    table = json.loads(TABLE.read_text()) if named else {}
    found = table.get("kinds", {})
    for kind in named or kinds():
        found[kind] = scan(kind)
        print(kind, found[kind], flush=True)
        text = {"transformers": transformers.__version__, "kinds": dict(sorted(found.items()))}
        TABLE.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
