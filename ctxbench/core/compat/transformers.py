"""What is used of transformers beyond what it promises."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ctxbench.core.compat.foreign import Foreign, Hook, Library, Mention, check

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

TRANSFORMERS = Library("transformers", "5.17 to 5.24", "transformers>=5.17,<5.25")


def _cache(name: str, parameters: str) -> Hook:
    why = "keep keys its own way in the layers of a cache"
    return Hook(TRANSFORMERS, "transformers.cache_utils", name, why, parameters)


def _word(module: str, name: str, word: str, why: str) -> Mention:
    return Mention(TRANSFORMERS, f"transformers.{module}", name, why, word)


_ATTENTION = Foreign(
    TRANSFORMERS,
    "transformers",
    "PreTrainedConfig._attn_implementation",
    "know which attention a model runs",
)
_LAYERS = Foreign(
    TRANSFORMERS,
    "transformers",
    "PreTrainedModel._no_split_modules",
    "know the class of a model's decoder layers",
)
_CALLED = "module, query, key, value, attention_mask"
_SWAP = "give an empty cache its own layers"
_LLAMA = "models.llama.modeling_llama"

OF_METHODS = (
    Hook(
        TRANSFORMERS, "transformers.integrations.sdpa_attention", "sdpa_attention_forward",
        "compute attention as the model would", _CALLED, more=True,
    ),
    Foreign(
        TRANSFORMERS, "transformers.masking_utils", "AttentionMaskInterface.register",
        "make no mask for attention that reads positions",
    ),
    Foreign(
        TRANSFORMERS, "transformers.masking_utils", "sdpa_mask",
        "make the masks of its stock attention",
    ),
    _cache("DynamicLayer.update", "key_states, value_states, *args, **kwargs"),
    _cache("DynamicLayer.lazy_initialization", "key_states, value_states"),
    _cache("DynamicLayer.get_mask_sizes", "query_length"),
    _cache("DynamicLayer.get_seq_length", ""),
    _cache("DynamicLayer.get_max_length", ""),
    _cache("DynamicLayer.crop", "tokens_to_remove"),
    _cache("DynamicLayer.reset", ""),
    _cache("DynamicLayer.batch_repeat_interleave", "repeats"),
    _cache("DynamicLayer.batch_select_indices", "indices"),
    _cache("CacheLayerMixin.reorder_cache", "beam_idx"),
    _cache("Cache.reorder_cache", "beam_idx"),
    _word("cache_utils", "CacheLayerMixin.__init__", "is_initialized", _SWAP),
    _word("cache_utils", "Cache.__init__", "layers", _SWAP),
    _word("cache_utils", "Cache.__init__", "layer_class_to_replicate", _SWAP),
    _word("cache_utils", "Cache.__init__", "offloading", _SWAP),
    Foreign(
        TRANSFORMERS, "transformers.cache_utils", "Cache.is_compileable", "refuse a static cache"
    ),
    Foreign(
        TRANSFORMERS, "transformers", "PreTrainedConfig.validate_rope",
        "ask whether a model's config takes a rope_type",
    ),
)  # fmt: skip
"""What methods use; found before one is installed on a model."""

OF_SEQUENCES = (
    Foreign(
        TRANSFORMERS, "transformers.modeling_utils", "ALL_ATTENTION_FUNCTIONS",
        "wrap the attention function of a model",
    ),
    Foreign(
        TRANSFORMERS, "transformers.masking_utils", "ALL_MASK_ATTENTION_FUNCTIONS",
        "make the masks of an attention function that it wraps",
    ),
    _word(
        _LLAMA, "LlamaDecoderLayer.forward", "position_embeddings",
        "cut the rotation for a part of the tokens",
    ),
    _word(
        _LLAMA, "LlamaAttention.__init__", "num_key_value_groups",
        "tell a kernel how many heads share a key",
    ),
    _word(_LLAMA, "LlamaModel.__init__", "rotary_emb", "replace a model's rotary module"),
)  # fmt: skip
"""What sequence parallelism uses; found before it is installed on a model."""

OF_GENERATION = (
    Hook(
        TRANSFORMERS, "transformers.generation.logits_process", "LogitsProcessor.__call__",
        "look at the logits of every new token", "input_ids, scores",
    ),
    Hook(
        TRANSFORMERS, "transformers.generation.stopping_criteria", "StoppingCriteria.__call__",
        "end an answer behind its reasoning", "input_ids, scores, **kwargs",
    ),
)  # fmt: skip
"""What `ctxext` hands to `generate`."""

_SCALINGS = Foreign(
    TRANSFORMERS,
    "transformers.modeling_rope_utils",
    "ROPE_INIT_FUNCTIONS",
    "know which rotary scalings a config may name",
)
_CONVERSIONS = Mention(
    TRANSFORMERS,
    "transformers.core_model_loading",
    "revert_weight_conversion",
    "save a part of a model under its own names",
    "_weight_conversions",
)
ENTRIES = (_ATTENTION, _CONVERSIONS, _LAYERS, _SCALINGS, *OF_METHODS, *OF_SEQUENCES, *OF_GENERATION)


def conversions_of(model: PreTrainedModel) -> list:
    """Return what was done to the names of a model's weights when it was loaded, to be undone."""
    return _CONVERSIONS.of(model)


def attention_of(config: PreTrainedConfig) -> str | None:
    """Return the name of the attention that a model runs."""
    return _ATTENTION.of(config)


def use_attention(config: PreTrainedConfig, name: str | None) -> None:
    """Let a model run another attention from its next forward pass on."""
    _ATTENTION.of(config)
    config._attn_implementation = name


def layer_classes(model: PreTrainedModel) -> list[str]:
    """Return the names of the classes of a model's decoder layers."""
    return list(_LAYERS.of(model) or ())


def scaling_types() -> list[str]:
    """Return the rotary scalings that transformers computes."""
    return list(_SCALINGS.find())


@cache
def check_for_methods() -> None:
    """Find what methods use.

    Raises:
        ForeignChanged: the first that is not as it was checked.
    """
    check(OF_METHODS)


@cache
def check_for_generation() -> None:
    """Find what generating uses.

    Raises:
        ForeignChanged: the first that is not as it was checked.
    """
    check(OF_GENERATION)


@cache
def check_for_sequences() -> None:
    """Find what sequence parallelism uses.

    Raises:
        ForeignChanged: the first that is not as it was checked.
    """
    check(OF_SEQUENCES)
