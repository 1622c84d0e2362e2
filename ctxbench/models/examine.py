"""What a checkpoint's files say about evaluating it, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from ctxbench.core.assets import resolve_model
from ctxbench.core.findings import Finding
from ctxbench.methods.base import default_length
from ctxbench.methods.record import read_record
from ctxbench.models.checks import check_bos, needs_window_bos
from ctxbench.models.generation_settings import read_checkpoint
from ctxbench.models.loading import load_config, load_tokenizer
from ctxbench.models.reasoning import Reasoning
from ctxbench.models.text_encoding import appended_tokens
from ctxbench.tasks.additivity import additivity
from ctxbench.tasks.chat import template_of


def examine_model(name: str, *, trust_remote_code: bool = False) -> Iterator[Finding]:
    """Yield what is found, and what to give `ctxext` for it.

    Args:
        name: folder, hub id, or a bundled model.
        trust_remote_code: run the checkpoint's own code.
    """
    path = resolve_model(name)
    try:
        config: Any = load_config(path, trust_remote_code=trust_remote_code)
        yield _config(config)
        if config.is_encoder_decoder:
            yield Finding("FAIL", "kind", "an encoder with a decoder, which ctxext does not run")
        tokenizer: Any = load_tokenizer(path, trust_remote_code=trust_remote_code)
    except (ValueError, OSError) as error:
        yield Finding("FAIL", "files", str(error))
        return
    yield from _tokenizer(config, tokenizer)
    yield _template(tokenizer)
    yield _generation(path, config, tokenizer)
    reason = additivity(tokenizer).why_not
    how = "by parts, proven for this tokenizer" if reason is None else f"whole: {reason}"
    yield Finding("ok", "counting", f"tasks of exact lengths count prompts {how}")


def _config(config: Any) -> Finding:
    text = f"{config.model_type}, window {default_length(config)} tokens"
    if (record := read_record(config)) is not None:
        text += f"; made with method {record.method}"
    return Finding("ok", "config", text)


def _tokenizer(config: Any, tokenizer: Any) -> Iterator[Finding]:
    if tokenizer.eos_token_id is None:
        text = "it names no EOS token, so no answer could end: add eos_token to its files"
        yield Finding("FAIL", "tokenizer", text)
    else:
        yield Finding("ok", "tokenizer", f"{len(tokenizer)} tokens, EOS {tokenizer.eos_token}")
    encode = _encoder(tokenizer)
    if appended := appended_tokens(encode):
        text = f"it puts {tokenizer.decode(appended)} after every text; ctxext takes that away"
        yield Finding("note", "EOS", text)
    ids = encode("A text.")
    try:
        check_bos(config, tokenizer, ids, None)
        begins = ids[:1] == [tokenizer.bos_token_id]
        text = f"{tokenizer.bos_token} before every text" if begins else "none before a text"
        yield Finding("ok", "BOS", text)
    except ValueError as error:
        yield Finding("FAIL", "BOS", str(error))
    if needs_window_bos(config):
        text = (
            f"{config.model_type} fails without BOS at the beginning of what it reads. For "
            "perplexity give the model argument window_bos=True, which puts it before every window"
        )
        yield Finding("note", "window_bos", text)


def _encoder(tokenizer: Any):
    def encode(text: str, add_special_tokens: bool = True) -> list[int]:
        return tokenizer(text, add_special_tokens=add_special_tokens).input_ids

    return encode


def _template(tokenizer: Any) -> Finding:
    if not getattr(tokenizer, "chat_template", None):
        return Finding("ok", "chat template", "none: give no --apply_chat_template")
    try:
        prompt = template_of(tokenizer)([{"role": "user", "content": "A question."}])
    except Exception as error:  # whatever a stranger's template raises
        return Finding("FAIL", "chat template", f"it refuses a question: {error}")
    text = "there is one: give --apply_chat_template, and chat=true in the metadata"
    if Reasoning(tokenizer, None, None).is_open(prompt):
        text += ". It opens reasoning: give reasoning_tokens=N, or enable_thinking=False"
    return Finding("note", "chat template", text)


def _generation(path: str, config: Any, tokenizer: Any) -> Finding:
    from transformers import GenerationConfig

    try:
        given = GenerationConfig.from_pretrained(path)
    except OSError:  # there is none
        given = GenerationConfig()
    except Exception as error:  # whatever a stranger's file makes transformers raise
        return Finding("FAIL", "generation", f"generation_config.json cannot be read: {error}")
    try:
        return _set_aside(given, config, tokenizer)
    except ValueError as error:
        return Finding("FAIL", "generation", str(error))


def _set_aside(given: Any, config: Any, tokenizer: Any) -> Finding:
    files: Any = SimpleNamespace(generation_config=given, config=config)
    aside = read_checkpoint(files, tokenizer).set_aside
    if not aside:
        return Finding("ok", "generation", "the checkpoint sets nothing but what ends an answer")
    listed = ", ".join(f"{name}={value!r}" for name, value in aside.items())
    return Finding("note", "generation", f"set aside: {listed}; what you want, in --gen_kwargs")
