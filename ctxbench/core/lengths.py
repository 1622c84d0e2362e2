"""Lengths: how users, tasks, columns and pages write a number of tokens."""

import math
import re

_SUFFIX = {"k": 1024, "m": 1024**2}
_DECIMAL_SUFFIX = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}

LADDER = tuple(k * 1024 for k in (1, 2, 4, 8, 16, 32, 64, 128))
"""Lengths at which tasks without a ladder of their own are listed, tokens."""


def length_name(tokens: int) -> str:
    """Return a length as task names have it: 4096 is 4k, 1048576 is 1m, 1000 is 1000."""
    if tokens % 1024**2 == 0:
        return f"{tokens // 1024**2}m"
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)


def task_family(task: str) -> str:
    """Return a task's name without its length: `niah_32k` is `niah`."""
    return re.sub(r"_\d+[km](?=_|$)|_\d{3,}$", "", task)


def parse_length(value: int | str) -> int:
    """Return a length in tokens from `32768`, `"32768"`, `"32k"` or `"1m"` (powers of two).

    Raises:
        ValueError: it is none of these, or not positive.
    """
    text = str(value).strip().lower().replace("_", "")
    scale = _SUFFIX.get(text[-1:], 1)
    digits = text[:-1] if scale > 1 else text
    if isinstance(value, bool) or not digits.isascii() or not digits.isdigit() or int(digits) < 1:
        raise ValueError(
            f"length={value!r} is not a length. Allowed: a positive number of tokens such as "
            "32768, or with k or m for 1024 and 1048576 tokens, such as 32k."
        )
    return int(digits) * scale


def parse_tokens(value: int | str) -> int:
    """Return a number of tokens from `1000000000`, `1B`, `655360` or `0.5M` (decimal suffixes).

    Raises:
        ValueError: it is none of these.
    """
    text = str(value).strip().lower().replace("_", "")
    scale = _DECIMAL_SUFFIX.get(text[-1:], 1)
    try:
        count = float(text[:-1]) * scale if scale > 1 else float(text)
    except ValueError:
        count = 0.0
    if not 1 <= count < math.inf or count != int(count):
        raise ValueError(
            f"tokens={value!r} is not a number of tokens. Allowed: a whole number, or with K, M, B "
            "or T for 10^3, 10^6, 10^9, 10^12. Give for example 1B."
        )
    return int(count)
