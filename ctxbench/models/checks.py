"""The field's usual errors, found before time is spent on them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from ctxbench.core.compat.transformers import scaling_types
from ctxbench.methods.base import Method, default_length
from ctxbench.methods.rope_settings import rope_settings

log = logging.getLogger(__name__)

_OF_TEMPLATES = (jinja2.TemplateError, TypeError, LookupError, ValueError, ArithmeticError)
_REFUSES = (
    "The tokenizer's chat template refuses the conversation: {error}. Messages come from "
    "--system_instruction, the task's description and few-shot examples; arguments of the template "
    "from chat_template_args and enable_thinking. Change those, or run without "
    "--apply_chat_template."
)

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


def check_scaling(config: Any) -> None:
    """Check that transformers knows the rotary scaling of a config, as it will be loaded.

    Raises:
        ValueError: it does not.
    """
    kind = rope_settings(config).get("rope_type", "default")
    known = {"default", *scaling_types()}
    if kind not in known:
        raise ValueError(
            f"The config has a rotary scaling of type {kind!r}, which transformers does not know. "
            f"It knows {', '.join(sorted(known))}. Write the one it stands for into config.json "
            "('su' is longrope; for 'clex' take the weights into ctxbench with method=clex), or "
            "replace it: method=NAME, override=true."
        )


def check_in_place(model: Any) -> None:
    """Check that all weights are in memory.

    Raises:
        ValueError: some were moved to the disk or are fetched for every layer.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            "parallelize=True found no room for all weights and moved some to the CPU or the disk, "
            "from where ctxext does not compute. Leave it out on a machine without GPUs; give more "
            "or larger GPUs, raise max_memory_per_gpu, or load the model in half precision or "
            "quantised."
        )


def check_tokenizer(model: Any, tokenizer: Any) -> None:
    """Check that every token of texts has an embedding, and that an answer can end.

    Special tokens beyond the embeddings, such as a [PAD] that was added for training and never
    trained, are allowed: a text that holds one is an error when it comes. If padding is one of
    them, EOS pads instead; padding is never attended to.

    Raises:
        ValueError: there is no EOS, or the tokenizer has more words than the model.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "The tokenizer names no EOS token, so no answer could end before its budget. Add "
            "eos_token (and pad_token) to its tokenizer_config.json, or give another: "
            "tokenizer=FOLDER_OR_ID."
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if not rows or len(tokenizer) <= rows:
        return
    special = {*tokenizer.all_special_tokens}
    beyond = [token for token, at in tokenizer.get_vocab().items() if at >= rows]
    if {*beyond} - special:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, the model has embeddings for {rows}: they "
            "do not belong together. Give the tokenizer the model was trained with (ctxext: "
            "tokenizer=FOLDER_OR_ID), or the folder that holds both."
        )
    log.warning(
        "%s of the tokenizer are beyond the %d embeddings of the model; a text that holds one is "
        "an error.", ", ".join(sorted(beyond)), rows,
    )  # fmt: skip
    if tokenizer.pad_token in beyond:
        tokenizer.pad_token = tokenizer.eos_token


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


def needs_window_bos(config: Any) -> bool:
    """Return whether a model fails wherever what it reads does not begin with BOS."""
    return str(config.model_type).startswith("gemma")


def end_of_turn(tokenizer: Any, arguments: Mapping[str, Any]) -> int | None:
    """Return the token that a chat template puts after an answer.

    Args:
        tokenizer: with the template.
        arguments: of the template.

    Returns:
        None: it puts no token of its own there, or takes no answer.
    """
    messages = [
        {"role": "user", "content": "<<question>>"},
        {"role": "assistant", "content": "<<answer>>"},
    ]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
    except _OF_TEMPLATES:
        return None
    after = text.partition("<<answer>>")[2]
    ids = tokenizer(after.lstrip(), add_special_tokens=False).input_ids
    return ids[0] if ids and ids[0] in tokenizer.added_tokens_decoder else None


class ChatCheck:
    """Whether requests come as the model expects: with its chat template, or without any.

    Attributes:
        applied: a template was applied to at least one request.
        merges_system: a system message was put into the user's.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.applied = False
        self.merges_system = False
        self.warned = False
        self._made: set[int] = set()

    def made(self, prompt: str) -> bool:
        """Return whether a prompt was made by the template."""
        return hash(prompt) in self._made

    def prompt(
        self, messages: Sequence[Mapping[str, str]], generates: bool, arguments: Mapping[str, Any]
    ) -> str:
        """Return a conversation as one prompt.

        A template that knows no system messages (Gemma's, Mistral's) gets theirs at the beginning
        of the user's, which is said; nothing is dropped.

        Args:
            messages: with `role` and `content`.
            generates: False: the last message is the beginning of an answer.
            arguments: of the template, `chat_template_args`.

        Raises:
            ValueError: there is no template, or it refuses the conversation.
        """
        text = self._prompt(messages, generates, arguments)
        self._made.add(hash(text))
        return text

    def _prompt(
        self, messages: Sequence[Mapping[str, str]], generates: bool, arguments: Mapping[str, Any]
    ) -> str:
        self.applying()
        try:
            return self._render(messages, generates, arguments)
        except _OF_TEMPLATES as error:
            if not (merged := _without_system(messages)):
                raise ValueError(_REFUSES.format(error=error)) from error
        try:
            text = self._render(merged, generates, arguments)
        except _OF_TEMPLATES as error:
            raise ValueError(_REFUSES.format(error=error)) from error
        if not self.merges_system:
            self.merges_system = True
            log.warning(
                "The chat template knows no system message; it stands at the beginning of the "
                "user's first message instead."
            )
        return text

    def _render(
        self, messages: Sequence[Mapping[str, str]], generates: bool, arguments: Mapping[str, Any]
    ) -> str:
        return self.tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=generates,
            continue_final_message=not generates,
            **arguments,
        )

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


def _without_system(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return messages with the system's put before the user's first; empty if there is none."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    others = [dict(message) for message in messages if message["role"] != "system"]
    if not system or not others or others[0]["role"] != "user":
        return []
    others[0]["content"] = "\n\n".join([*system, others[0]["content"]])
    return others
