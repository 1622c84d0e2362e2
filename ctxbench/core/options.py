"""Turning what a user types into a method's typed options."""

import json
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from ctxbench.core.errors import near_names
from ctxbench.core.lengths import parse_length


def parse_pairs(given: Iterable[str], flag: str) -> dict[str, Any]:
    """Return `NAME=VALUE` texts as a mapping; the options' own types are the method's.

    Raises:
        ValueError: one is no pair.
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(
                f"{flag} {text!r} is not NAME=VALUE. Give for example {flag} factor=8."
            )
        found[name] = {"true": True, "false": False}.get(value.lower(), value)
    return found


def coerce_options(cls: type, given: dict[str, Any]) -> dict[str, Any]:
    """Return the options converted to the types of the dataclass fields of `cls`.

    Raises:
        ValueError: an unknown option, or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name: hints[f.name] for f in fields(cls)}
    name = getattr(cls, "name", cls.__name__)
    result = {}
    for option, value in given.items():
        if option not in known:
            raise ValueError(
                f"method={name} has no option {option!r}{near_names(option, known)} "
                f"Its options: {', '.join(sorted(known))}."
            )
        result[option] = _coerce(name, option, value, known[option])
    return result


def _coerce(method: str, option: str, value: Any, hint: Any) -> Any:
    if option == "length":
        return None if value is None else parse_length(value)
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if typing.get_origin(hint) is typing.Literal:
        if value in typing.get_args(hint):
            return value
        raise _wrong(method, option, value, " or ".join(map(repr, typing.get_args(hint))))
    for kind in kinds:
        try:
            return _as(kind, value)
        except (TypeError, ValueError, OverflowError):
            continue
    readable = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise _wrong(method, option, value, readable.replace("NoneType", "nothing"))


def _as(kind: Any, value: Any) -> Any:
    """Return `value` as `kind` or raise TypeError/ValueError."""
    if kind is type(None):
        if value is None or value == "None":
            return None
    elif kind is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
    elif kind is int:
        if not isinstance(value, bool) and int(value) == float(value):
            return int(value)
    elif kind is float:
        if not isinstance(value, bool) and math.isfinite(float(value)):
            return float(value)
    elif kind is str:
        if isinstance(value, str):
            return value
    elif typing.get_origin(kind) is tuple:
        items = _json_list(value) if isinstance(value, str) else value
        return tuple(_as(typing.get_args(kind)[0], item) for item in items)
    raise ValueError


def _json_list(path: str) -> Any:
    try:
        return json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise FileNotFoundError(
            f"{path[:200]} cannot be read ({error.strerror}). It must be a JSON file with a list "
            "of numbers. Give its path."
        ) from error


def _wrong(method: str, option: str, value: Any, allowed: str) -> ValueError:
    return ValueError(
        f"method={method}: {option}={value!r} is not allowed; {option} must be {allowed}. "
        f"Give {option} a value of that kind or leave it out."
    )
