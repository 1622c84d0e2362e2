"""Prompts of an exact length that will be put into a model's chat template."""

from typing import Any


def chat_texts(tokenizer: Any) -> tuple[str, str]:
    """Return what a chat template puts before and after the user's message.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "Metadata chat=true was given, but the tokenizer has no chat template. Leave it out, "
            "or give the tokenizer of a chat model."
        )
    user, answer = "<<user>>", "<<answer>>"
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, continue_final_message=True)
    before, rest = text.split(user)
    return before, rest[: rest.index(answer)]
