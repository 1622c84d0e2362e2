"""Checkpoints that read pictures or sound too: their text part is opened alone, or refused."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ctxbench.core.compat.transformers import conversions_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

log = logging.getLogger(__name__)

KEYS = {
    r"^model\.language_model\.": "model.",
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.text_model\.": "model.",
}
"""Names of weights of the text part in such checkpoints, and in a model of text alone."""


def text_only(config: PreTrainedConfig, path: str) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """Return the config of a checkpoint's text part, and what `from_pretrained` needs to find it.

    Args:
        config: as the checkpoint has it; returned itself where it is of text alone.
        path: of the checkpoint.

    Raises:
        ValueError: transformers has no model for that part alone.
    """
    text = config.get_text_config(decoder=True)
    if text is config or config.is_encoder_decoder:
        return config, {}
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if text.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"{path} is a {config.model_type} model, which reads more than text, and transformers "
            f"has no model of its text part alone ({text.model_type}). ctxbench extends models of "
            "text (`ctxbench ls models`); give one."
        )
    log.warning(
        "%s is a %s model, which reads more than text. Its text part (%s) runs alone.", path,
        config.model_type, text.model_type,
    )  # fmt: skip
    if dtype := getattr(config, "dtype", None):
        text.dtype = getattr(text, "dtype", None) or dtype
    text.tie_word_embeddings = config.tie_word_embeddings  # the whole model's class decides
    return text, {"key_mapping": KEYS}


def forget_names(model: Any) -> None:
    """Let a model that was opened as the text part of another be saved under its own names."""
    loaded = conversions_of(model)
    loaded[:] = [each for each in loaded if not {*each.source_patterns} & {*KEYS}]


def check_text_model(model: Any) -> None:
    """Check that a model in memory is one of text alone.

    Raises:
        ValueError: it reads more.
    """
    config = model.config
    if not config.is_encoder_decoder and config.get_text_config(decoder=True) is not config:
        raise ValueError(
            f"This {config.model_type} model reads more than text. Save it and open its text part: "
            "ctxbench.load_model(FOLDER, METHOD, ...), or pretrained=FOLDER."
        )
