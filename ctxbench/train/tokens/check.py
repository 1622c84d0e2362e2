"""Documents that no model can read, refused before they are trained on."""

from __future__ import annotations

from typing import Any

import numpy as np

_BLOCK = 2**24
"""Tokens looked at together."""


def check_ids(ids: Any, vocabulary: int, where: str) -> np.ndarray:
    """Return token ids as an array.

    Raises:
        ValueError: they are no integers, or beyond the vocabulary.
    """
    try:
        found = np.asarray(ids)
    except ValueError:  # rows of different length
        found = np.empty(0)
    if found.size and (found.dtype.kind not in "iu" or found.ndim != 1):
        raise ValueError(
            f"{where} holds {repr(ids)[:60]}; it must be a text, or input_ids a list of token ids. "
            "Correct it, or name another column (SOURCE:column=NAME)."
        )
    if found.size and not 0 <= found.min() <= found.max() < vocabulary:
        raise ValueError(
            f"{where} holds the token ids {found.min()} to {found.max()}, but the tokenizer has "
            f"{vocabulary} tokens: they were made with another one. Tokenise them with the model's."
        )
    return found


def check_array(tokens: np.ndarray, vocabulary: int, name: str) -> None:
    """Check an array of token ids, all of it.

    Raises:
        ValueError: it is no array of token ids of this vocabulary.
    """
    if tokens.dtype.kind not in "iu":
        raise ValueError(
            f"{name} holds numbers of type {tokens.dtype}; token ids are integers. Write it "
            "as uint16 or uint32."
        )
    for begin in range(0, len(tokens), _BLOCK):
        check_ids(tokens[begin : begin + _BLOCK], vocabulary, name)
