"""Text and YAML values to the types of settings."""

import math
import types
import typing
from typing import Any, Literal

_TOKEN_SUFFIX = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def parse_tokens(value: int | str) -> int:
    """Return a number of tokens from `1000000000`, `1B`, `655360` or `0.5M` (decimal suffixes).

    Raises:
        ValueError: it is none of these.
    """
    text = str(value).strip().lower().replace("_", "")
    scale = _TOKEN_SUFFIX.get(text[-1:], 1)
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


def convert(name: str, value: Any, hint: Any) -> Any:
    """Return a value as the type of a field.

    Args:
        name: of the field.
        value: of the command line (text) or of YAML.
        hint: a type, a Literal, a tuple of one type, or one of these or None.

    Raises:
        ValueError: naming the field and what it can be.
    """
    optional = isinstance(hint, types.UnionType)
    if optional and value is None:
        return None
    kind = typing.get_args(hint)[0] if optional else hint
    try:
        if typing.get_origin(kind) is Literal:
            if value not in typing.get_args(kind):
                raise ValueError
            return value
        if typing.get_origin(kind) is tuple:
            return tuple(scalar(item, typing.get_args(kind)[0]) for item in items(value))
        return scalar(value, kind)
    except (TypeError, ValueError):
        choices = " or ".join(map(str, typing.get_args(kind)))
        readable = choices if typing.get_origin(kind) is Literal else str(hint)
        readable = readable.removeprefix("<class '").removesuffix("'>")
        raise ValueError(
            f"{name}={value!r} is not allowed; {name} must be {readable}. Give such a value or "
            "leave it out."
        ) from None


def scalar(value: Any, kind: type) -> Any:
    """Return a value as `kind`; TypeError or ValueError if it is none."""
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError
        return value
    if isinstance(value, bool) or value is None:
        raise ValueError
    if kind is int and float(value) != int(float(value)):
        raise ValueError
    return int(float(value)) if kind is int else kind(value)


def items(value: Any) -> list[Any]:
    """Return the items of a list, or the one item of a scalar (a YAML `data: stdlib`)."""
    return list(value) if isinstance(value, list | tuple) else [value]
