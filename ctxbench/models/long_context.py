"""Many continuations of one long context, without tokenising or holding the context for each.

lm-eval's models tokenise context + continuation as one text and take what follows the context's own
tokens. For 58 continuations of a prompt of 1000 shots that is the same 87,000 characters 59 times,
more work than scoring them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

LONG = 2000
"""Characters from which a context is worth it."""

TAIL = 400
"""Characters at the end of a context in which a place to cut is looked for."""

AT_ONCE = 300_000_000
"""Characters of contexts that are held as tokens at once, about 2 GB."""


def short_tail(
    context: str, ids: Sequence[int], encode: Callable[[str], list[int]]
) -> tuple[str, list[int]] | None:
    """Return an end of the context that has the same tokens alone as within it, and these tokens.

    Args:
        context: text.
        ids: its tokens.
        encode: tokenises without special tokens.

    Returns:
        None if no cut after a line end does that.
    """
    end = context[-TAIL:]
    cut = end.find("\n") + 1
    if not cut:
        return None
    tokens = encode(end[cut:])
    return (end[cut:], tokens) if tokens and list(ids[-len(tokens) :]) == tokens else None


def continue_tail(
    tail: tuple[str, list[int]], continuation: str, encode: Callable[[str], list[int]]
) -> list[int] | None:
    """Return the continuation's tokens after the context that `tail` ends.

    Returns:
        None if the continuation changes tokens far back, so that the cut may not be trusted.
    """
    text, tokens = tail
    whole = encode(text + continuation)
    half = len(tokens) // 2
    return whole[len(tokens) :] if whole[:half] == tokens[:half] else None


class LongContextEncoder:
    """The last long context, tokenised once for all its continuations.

    Args:
        encode: tokenises a context.
        encode_bare: tokenises without special tokens.
    """

    def __init__(self, encode: Callable[[str], list[int]], encode_bare: Callable[[str], list[int]]):
        self.encode = encode
        self.encode_bare = encode_bare
        self.text = ""
        self.ids: list[int] = []
        self.tail: tuple[str, list[int]] | None = None

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]] | None:
        """Return the tokens of a context and of its continuation.

        Returns:
            None if the context is short or the two must be tokenised as one text.
        """
        stripped = context.rstrip()
        if len(stripped) < LONG:
            return None
        if stripped is not self.text and stripped != self.text:
            self.text, self.ids = stripped, self.encode(stripped)
            self.tail = short_tail(stripped, self.ids, self.encode_bare)
        spaces = context[len(stripped) :]
        if self.tail and (new := continue_tail(self.tail, spaces + continuation, self.encode_bare)):
            return self.ids, new
        return None


def split_by_size(requests: Sequence[Any], limit: int = AT_ONCE) -> Iterator[list[Any]]:
    """Cut requests, in order, into lists of at most `limit` characters of contexts each."""
    part, size = [], 0
    for request in requests:
        characters = len(request.args[0])
        if part and size + characters > limit:
            yield part
            part, size = [], 0
        part.append(request)
        size += characters
    if part:
        yield part
