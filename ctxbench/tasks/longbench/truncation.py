"""The official truncation: out of the middle, by tokens, and back to text."""

from collections.abc import Sequence


def keep_ends(ids: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return the parts of a token sequence that are kept: all of it, or two halves.

    As the official pred.py: each half has `max_tokens // 2` tokens, so an odd budget keeps one
    token less.

    Raises:
        ValueError: a budget below 2, with which the official code would cut nothing at all.
    """
    if len(ids) <= max_tokens:
        return [list(ids)]
    if max_tokens < 2:
        raise ValueError(
            f"A prompt cannot be cut to {max_tokens} tokens; allowed is 2 or more. Raise it."
        )
    half = int(max_tokens / 2)
    return [list(ids[:half]), list(ids[-half:])]


def truncate_middle(prompt: str, tokenizer, max_tokens: int) -> tuple[str, int, int]:
    """Cut a prompt out of the middle.

    The halves are decoded apart and joined as text. Read again, that text may have a few tokens
    more or less than the budget: the seam is tokenised anew.

    Returns:
        the text; its tokens before and after, special tokens counted.
    """
    ids = tokenizer(prompt, verbose=False)["input_ids"]
    parts = keep_ends(ids, max_tokens)
    if len(parts) == 1:
        return prompt, len(ids), len(ids)
    text = "".join(tokenizer.decode(part, skip_special_tokens=True) for part in parts)
    return text, len(ids), len(tokenizer(text, verbose=False)["input_ids"])
