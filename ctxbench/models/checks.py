"""The field's usual errors, found before time is spent on them."""

from __future__ import annotations

import logging
from typing import Any

from ctxbench.methods.base import Method, default_length

log = logging.getLogger(__name__)

_BEGIN = ("<s>", "<bos>", "<|begin_of_text|>")
_FAMILIES = ("llama", "mistral", "mixtral", "gemma")
"""BOS tokens, and the model types that are trained with one before every text.

Others have a BOS that no text begins with (Phi-3, Yi, `<|im_start|>` of SmolLM), or use EOS for it.
"""


def check_named_method(config: Any, method: Method) -> None:
    """Check that nobody runs a model beyond its window by leaving out the method.

    Args:
        config: of a model without a record, before any edit.
        method: what was chosen because none was named.

    Raises:
        ValueError: the length is beyond what the model holds.
    """
    window = default_length(config)
    if method.length is not None and method.length > window:
        raise ValueError(
            f"length={method.length}, but the model's window is {window} tokens and no method was "
            "named. Beyond its window a model needs one: give method=NAME (`ctxbench ls methods`), "
            f"a length up to {window}, or method=none to measure on purpose how it fails."
        )


def check_tokenizer(model: Any, tokenizer: Any) -> None:
    """Check that every token has an embedding.

    Raises:
        ValueError: the tokenizer has more tokens than the model.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if rows and len(tokenizer) > rows:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, the model has embeddings for {rows}: they "
            "do not belong together. Give the tokenizer the model was trained with (ctxext: "
            "tokenizer=FOLDER_OR_ID), or the folder that holds both."
        )


def check_bos(config: Any, tokenizer: Any, encoded: list[int], stated: bool | None) -> None:
    """Check that texts begin with BOS where the model's family was trained so.

    Args:
        config: of the model.
        tokenizer: of the model.
        encoded: any text as it will be fed.
        stated: `add_bos_token` as the user gave it.

    Raises:
        ValueError: it is missing, and nobody said that it should be.
    """
    begin, end = tokenizer.bos_token, tokenizer.eos_token
    if not str(config.model_type).startswith(_FAMILIES) or begin not in _BEGIN or begin == end:
        return
    if stated is False or encoded[:1] == [tokenizer.bos_token_id]:
        return
    instead = (
        "add_bos_token=True does not reach this tokenizer: correct the post_processor in its "
        "tokenizer.json"
        if stated
        else "Give add_bos_token=True"
    )
    raise ValueError(
        f"Texts are fed without the BOS token {begin} that this tokenizer has. {config.model_type} "
        "models are trained with it before every text and are much worse without. "
        f"{instead}, or give add_bos_token=False if this model was trained without."
    )


def end_of_turn(tokenizer: Any) -> int | None:
    """Return the token that a chat template puts after an answer; None: no token of its own."""
    messages = [
        {"role": "user", "content": "<<question>>"},
        {"role": "assistant", "content": "<<answer>>"},
    ]
    after = tokenizer.apply_chat_template(messages, tokenize=False).partition("<<answer>>")[2]
    ids = tokenizer(after.lstrip(), add_special_tokens=False).input_ids
    return ids[0] if ids and ids[0] in tokenizer.added_tokens_decoder else None


class ChatCheck:
    """Whether requests come as the model expects: with its chat template, or without any.

    Attributes:
        applied: a template was applied to at least one request.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.applied = False
        self.warned = False

    def applying(self) -> None:
        """Note that a template is about to be applied.

        Raises:
            ValueError: the tokenizer has none.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise ValueError(
                "--apply_chat_template was given, but this model's tokenizer has no chat template: "
                "it is a base model, or its template was lost. Leave the flag out, or give "
                "tokenizer=FOLDER_OR_ID with the template."
            )
        self.applied = True

    def generating(self) -> None:
        """Warn once if a chat model is asked without its template."""
        if self.applied or self.warned or not getattr(self.tokenizer, "chat_template", None):
            return
        self.warned = True
        log.warning(
            "This tokenizer has a chat template and the prompts come without it. An instruction-"
            "tuned model expects it and often answers worse so. Add --apply_chat_template, or "
            "leave it as it is for a base model."
        )
