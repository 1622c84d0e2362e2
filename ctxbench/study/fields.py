"""Reading typed fields out of YAML mappings, with errors that say what to change."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ctxbench.core.errors import near_names
from ctxbench.core.lengths import parse_length


def build(cls: type, given: Any, where: str) -> Any:
    """Return the dataclass `cls` made of a mapping.

    A field whose metadata has `key` is called so in the file; one with `length` takes `32k` too.

    Raises:
        ValueError: an unknown key, a missing field or a value of the wrong type.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} is {given!r}; it must be a mapping. Write `key: value` lines.")
    hints = typing.get_type_hints(cls)
    known = {f.metadata.get("key", f.name): f for f in dataclasses.fields(cls)}
    check_keys(given, known, where)
    values = {}
    for key, field in known.items():
        if key in given:
            values[field.name] = _typed(given[key], hints[field.name], field, f"{where}, {key}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(
                f"{where} has no {key!r}. It needs {', '.join(_required(cls))}. Add it."
            )
    return cls(**values)


def check_keys(given: Mapping[str, Any], known: typing.Iterable[str], where: str) -> None:
    """Raise for the first key that is not known.

    Raises:
        ValueError: naming the near ones and all allowed.
    """
    known = list(known)
    for key in given:
        if key not in known:
            raise ValueError(
                f"{where} has the unknown key {key!r}{near_names(str(key), known)} "
                f"Allowed: {', '.join(known)}. Rename it or leave it out."
            )


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ValueError: it is no YAML, or no mapping.
    """
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file.name} is no YAML: {error}. Mend it.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} holds {type(found).__name__}, not `key: value` lines. Mend.")
    return found


def _required(cls: type) -> list[str]:
    return [
        f.metadata.get("key", f.name)
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]


def _typed(value: Any, hint: Any, field: dataclasses.Field, where: str) -> Any:
    if field.metadata.get("length"):
        many = isinstance(value, list)
        lengths = tuple(parse_length(item) for item in (value if many else [value] * bool(value)))
        return lengths if many else (lengths[0] if lengths else None)
    for kind in typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
        if _is(value, kind):
            return tuple(value) if typing.get_origin(kind) is tuple else value
    raise ValueError(f"{where} is {value!r}; it must be {_readable(hint)}. Change it.")


def _is(value: Any, kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin is Literal:
        return value in typing.get_args(kind)
    if origin is tuple:
        inner = typing.get_args(kind)[0]
        return isinstance(value, list | tuple) and all(_is(item, inner) for item in value)
    if kind is Any:
        return True
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or kind)


def _readable(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(map(_readable, typing.get_args(hint)))
    origin = typing.get_origin(hint)
    if origin is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if origin is tuple:
        return f"a list of {_readable(typing.get_args(hint)[0])}"
    names = {dict: "a mapping", str: "text", int: "a whole number", float: "a number"}
    names |= {bool: "true or false", type(None): "nothing"}
    return names.get(origin or hint, str(hint))
