"""Texts to tokens as lm-eval's models make them, with what goes wrong there mended or counted.

Many continuations of one long context are encoded without tokenising or holding it for each.

lm-eval's models tokenise context + continuation as one text and take what follows the context's own
tokens. For 58 continuations of a prompt of 1000 shots that is the same 87,000 characters 59 times,
more work than scoring them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

log = logging.getLogger(__name__)

LONG = 2000
"""Characters from which a context is worth it."""

TAIL = 400
"""Characters at the end of a context in which a place to cut is looked for."""

KEPT = 20_000_000
"""Tokens of texts that are remembered, about 700 MB."""

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
) -> tuple[list[int], bool] | None:
    """Return the continuation's tokens after the context that `tail` ends, and if the two merge.

    Returns:
        None if the continuation changes tokens far back, so that the cut may not be trusted.
    """
    text, tokens = tail
    whole = encode(text + continuation)
    half = len(tokens) // 2
    if whole[:half] != tokens[:half]:
        return None
    return whole[len(tokens) :], whole[: len(tokens)] != tokens


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
        self.merged = False
        """Whether the last pair's border is within a token of the two together."""

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
        if not self.tail:
            return None
        new, self.merged = continue_tail(self.tail, spaces + continuation, self.encode_bare) or (
            [],
            False,
        )
        return (self.ids, new) if new else None


class TextEncoder:
    """Turns texts and pairs of context and continuation into tokens.

    Args:
        encode: HFLM's `tok_encode`.
        tokenizer: behind it.
        rows: tokens that have an embedding; 0: not known here, as where weights are sharded.

    Attributes:
        appended: tokens that the tokenizer puts after every text; they are taken away, since a
            model is asked to go on.
    """

    def __init__(self, encode: Callable[..., list[int]], tokenizer: Any, rows: int):
        self._encode = encode
        self._tokenizer = tokenizer
        self._rows = rows
        self._kept: dict[str, list[int]] = {}
        self._long = LongContextEncoder(self.text, self.bare)
        self._kept_tokens = 0
        self._merged: set[int] = set()
        self._encoded_apart: set[int] = set()
        self.appended = appended_tokens(encode)
        if self.appended:
            log.warning(
                "The tokenizer puts %s after every text, and a model that is asked to go on would "
                "begin after its own end. It is taken away. Correct add_eos_token in "
                "tokenizer_config.json, or the post_processor in tokenizer.json.",
                tokenizer.decode(self.appended),
            )

    def forget(self) -> None:
        """Begin to count anew."""
        self._merged, self._encoded_apart = set(), set()

    def counts(self) -> dict[str, int]:
        """Return what happened so far, as results carry it; each pair of texts counts once."""
        return {
            "targets_merged_with_context": len(self._merged),
            "targets_encoded_apart": len(self._encoded_apart),
        }

    def text(self, text: str) -> list[int]:
        """Return the tokens of a text with what begins it; long ones are remembered.

        Raises:
            ValueError: one has no embedding.
        """
        if text not in self._kept:
            if len(self._kept) > 4096 or self._kept_tokens > KEPT:
                self._kept.clear()
                self._kept_tokens = 0
            ids = self._encode(text)
            size = len(self.appended)
            if size and ids[-size:] == self.appended:
                ids = ids[:-size]
            self._kept[text] = self._check(ids)
            self._kept_tokens += len(ids)
        return list(self._kept[text])

    def bare(self, text: str) -> list[int]:
        """Return the tokens of a text alone.

        Raises:
            ValueError: one has no embedding.
        """
        return self._check(self._encode(text, add_special_tokens=False))

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a context and of its continuation.

        As lm-eval does: those of both as one text, cut after as many as the context has alone.
        Where the border merges into one token so that nothing is left of the continuation, each is
        encoded by itself; that, and a border that merges otherwise, is counted.
        """
        if found := self._long.encode_pair(context, continuation):
            if self._long.merged:
                self._merged.add(hash((context, continuation)))
            return found
        stripped = context.rstrip()
        moved = context[len(stripped) :] + continuation
        before, whole = self.text(stripped), self.text(stripped + moved)
        after = whole[len(before) :]
        if after:
            if whole[: len(before)] != before:
                self._merged.add(hash((context, continuation)))
            return before, after
        if apart := self._apart(moved):
            self._encoded_apart.add(hash((context, continuation)))
        return before, apart

    def _apart(self, text: str) -> list[int]:
        """Return the tokens of a text within another; some tokenizers add a space to its start."""
        line = self.bare("\n")
        whole = self.bare(f"\n{text}")
        return whole[len(line) :] if line and whole[: len(line)] == line else self.bare(text)

    def _check(self, ids: list[int]) -> list[int]:
        if ids and self._rows and max(ids) >= self._rows:
            token = next(token for token in ids if token >= self._rows)
            raise ValueError(
                f"A text holds the token {self._tokenizer.convert_ids_to_tokens(token)!r} of id "
                f"{token}, but the model has {self._rows} embeddings. Give the tokenizer the model "
                "was trained with (ctxext: tokenizer=FOLDER_OR_ID), or add the token to "
                "the model and train it."
            )
        return ids


def appended_tokens(encode: Callable[..., list[int]]) -> list[int]:
    """Return the tokens that a tokenizer puts after a text by itself."""
    whole, bare = encode("A text."), encode("A text.", add_special_tokens=False)
    last = bare[-1] if bare else None  # the first may differ behind BOS
    return whole[len(whole) - whole[::-1].index(last) :] if last in whole else []


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
