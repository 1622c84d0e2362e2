"""What a chat template puts around a prompt, to be counted in its length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ctxbench.core.errors import raised_by_us
from ctxbench.tasks.tokenizer import load_tokenizer, tokenizer_name

Template = Callable[..., Any]
"""Messages and `add_generation_prompt` to text, as `apply_chat_template` of lm-eval's models."""

_USER, _ANSWER = "<<user>>", "<<answer>>"


def chat_of(metadata: Mapping[str, Any], *, prefixed: bool) -> tuple[str, str]:
    """Return the texts that a task counts where metadata has `chat=true`.

    Args:
        metadata: of the task. `chat_texts` in it is what the harness really puts there, which a
            task finds out once it is known; see `ctxbench.tasks.class_task`.
        prefixed: whether the task writes the beginning of the answer.
    """
    if given := metadata.get("chat_texts"):
        return given[0], given[1]
    return chat_texts(load_tokenizer(tokenizer_name(**metadata)), prefixed=prefixed)


def chat_texts(
    tokenizer: Any, *, prefixed: bool, system: str | None = None, apply: Template | None = None
) -> tuple[str, str]:
    """Return what a chat template puts before and after the user's message.

    Args:
        tokenizer: with the template.
        prefixed: the task writes the beginning of the answer, which the template continues; else
            it opens the answer, reasoning included where it does that.
        system: message before the user's.
        apply: puts messages into text; default the tokenizer's template.

    Raises:
        ValueError: the tokenizer has no chat template, or it changes the user's message.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "Metadata chat=true was given, but the tokenizer has no chat template. Leave it out, "
            "or give the tokenizer of a chat model."
        )
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": _USER})
    if prefixed:
        messages.append({"role": "assistant", "content": _ANSWER})
    try:
        text = apply(messages, add_generation_prompt=not prefixed) if apply else None
        if not isinstance(text, str):  # a server applies it: as the tokenizer would
            text = template_of(tokenizer)(messages, add_generation_prompt=not prefixed)
    except Exception as error:  # whatever a template raises
        if raised_by_us(error):
            raise
        raise ValueError(
            f"Metadata chat=true was given, but the chat template refuses a question"
            f"{' with a system message' if system else ''}: {error}. Leave out "
            f"{'--system_instruction' if system else 'chat=true'}, or correct the template."
        ) from error
    before, found, after = text.partition(_USER)
    if not found:
        raise ValueError(
            "Metadata chat=true was given, but the chat template does not put the user's message "
            f"into the prompt as it is: {text[:200]!r}. Leave chat=true out, or correct the "
            "template."
        )
    return before, after.partition(_ANSWER)[0]


def template_of(tokenizer: Any) -> Template:
    """Return what applies a tokenizer's chat template as lm-eval's models do."""

    def apply(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        return tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    return apply
