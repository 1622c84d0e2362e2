"""Documents that no model can read, refused before they are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_LOOKED_AT = 1_000_000  # tokens at the beginning, in the middle and at the end of an array


def check_ids(ids: Any, vocabulary: int) -> np.ndarray:
    """Return token ids as an array.

    Raises:
        ValueError: they are no integers, or beyond the vocabulary.
    """
    try:
        found = np.asarray(ids)
    except ValueError:  # rows of different length
        found = np.empty(0)
    if found.size and (found.dtype.kind not in "iu" or found.ndim != 1):
        shown = repr(ids)[:60]
        raise ValueError(
            f"A record of the data holds {shown}; it must be a text, or input_ids a list of token "
            "ids. Mend it, or name another column (SOURCE:column=NAME)."
        )
    if found.size and not 0 <= found.min() <= found.max() < vocabulary:
        raise ValueError(
            f"The data hold the token ids {found.min()} to {found.max()}, but the tokenizer has "
            f"{vocabulary} tokens: they were made with another one. Tokenise them with the model's."
        )
    return found


def check_array(tokens: np.ndarray, vocabulary: int, name: str) -> None:
    """Check an array of token ids in three places.

    Raises:
        ValueError: it is no array of token ids of this vocabulary.
    """
    if tokens.dtype.kind not in "iu":
        raise ValueError(
            f"data {name!r} holds numbers of type {tokens.dtype}; token ids are integers. Write it "
            "as uint16 or uint32."
        )
    middle = max((len(tokens) - _LOOKED_AT) // 2, 0)
    for begin in (0, middle, max(len(tokens) - _LOOKED_AT, 0)):
        check_ids(tokens[begin : begin + _LOOKED_AT], vocabulary)


def explain_texts(texts: Sequence[str]) -> ValueError:
    """Return what is wrong with texts that a tokenizer refused."""
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            around = ascii(text[max(error.start - 20, 0) : error.start + 20])
            return ValueError(
                f"A document holds half of a surrogate pair near {around}, which is no character "
                "and cannot be tokenised. Text must be valid Unicode. Mend it where the data were "
                "made, such as text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
            )
    return ValueError("The tokenizer refuses a document. Texts must be strings. Mend the data.")
