"""The official truncation: out of the middle, by tokens, and back to text."""

import re
from collections.abc import Sequence
from typing import Literal

from ctxbench.tasks.tokenizer import plain_backend

Decoder = Literal["sentencepiece", "tokenizers"]
"""What makes text of tokens again; they differ where a cut leaves bytes of no character."""
_BYTES = re.compile("<0x([0-9A-F]{2})>")

SEAM = 16
"""Tokens that a prompt may have beyond its budget when its text is read again."""


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


def truncate_middle(
    prompt: str, tokenizer, max_tokens: int, decoder: Decoder = "tokenizers"
) -> tuple[str, int, int]:
    """Cut a prompt out of the middle.

    The halves are decoded apart and joined as text. Read again, that text may have a few tokens
    more or less than the budget: the seam is tokenised anew, and special tokens are left out.

    Args:
        prompt: text.
        tokenizer: of transformers.
        max_tokens: special tokens counted.
        decoder: `sentencepiece` as LongBench's own runs, `tokenizers` as LCEG's.

    Returns:
        the text; its tokens before and after, special tokens counted.

    Raises:
        ValueError: the tokenizer does not give back the text that it encoded.
    """
    ids = tokenizer(prompt, verbose=False)["input_ids"]
    parts = keep_ends(ids, max_tokens)
    if len(parts) == 1:
        return prompt, len(ids), len(ids)
    text = "".join(decode(tokenizer, part, decoder) for part in parts)
    after = len(tokenizer(text, verbose=False)["input_ids"])
    if not max_tokens // 2 <= after <= max_tokens + SEAM:
        raise ValueError(
            f"A prompt of {len(ids)} tokens, cut to {max_tokens} as the official code does it, has "
            f"{after} when its text is read again; allowed are {max_tokens // 2} to "
            f"{max_tokens + SEAM}. The tokenizer's decode does not give back what it encoded: its "
            "tokenizer.json has no decoder, or most of the text is unknown to it. Give the "
            "tokenizer as its model was published, or a longer task, which cuts nothing."
        )
    return text, len(ids), after


def decode(tokenizer, ids: Sequence[int], decoder: Decoder) -> str:
    """Return the text of tokens, special ones left out.

    SentencePiece, so Llama's slow tokenizer, writes one U+FFFD for each byte that belongs to no
    character. `tokenizers` writes them for all bytes of a run that has such a byte, also for the
    whole characters in it. Where bytes are no tokens of their own there is no difference.
    """
    backend = plain_backend(tokenizer)
    if decoder == "tokenizers" or backend is None or "ByteFallback" not in repr(backend.decoder):
        return tokenizer.decode(ids, skip_special_tokens=True)
    added = tokenizer.added_tokens_decoder
    kept = [id for id in ids if id not in added or not added[id].special]
    tokens = tokenizer.convert_ids_to_tokens(kept)
    return backend.decoder.decode(_characters(tokens))


def _characters(tokens: Sequence[str]) -> list[str]:
    """Return tokens with characters in place of bytes."""
    found, run = [], bytearray()
    for token in [*tokens, ""]:
        if byte := _BYTES.fullmatch(token):
            run.append(int(byte[1], 16))
            continue
        text = run.decode(errors="surrogateescape")  # one surrogate per stray byte
        found += [*re.sub("[\udc80-\udcff]", "\ufffd", text), token]
        run.clear()
    return found[:-1]
