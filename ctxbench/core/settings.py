"""Settings: what a user gives, typed and checked by the dataclass that declares it.

Type hints are the declaration: numbers, `str`, `bool`, `Literal`, `tuple[X, ...]`, other
dataclasses, mappings, `X | None`. What a type cannot say is written with `Annotated`: `Range`
bounds a number, `Parsed` reads a spelling of its own, such as `32k`. A field whose metadata has
`key` is called so by the user.
"""

import argparse
import dataclasses
import inspect
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

from ctxbench.core.errors import near_names, shown
from ctxbench.core.lengths import parse_length, parse_tokens

Settings = TypeVar("Settings")
_READABLE = {
    dict: "a mapping", str: "text", int: "a whole number", float: "a number",
    bool: "true or false", type(None): "nothing",
}  # fmt: skip


@dataclass(frozen=True)
class Range:
    """What a number is allowed to be.

    Attributes:
        least: the number, or more.
        above: more than this.
        most: the number, or less.
        multiple_of: a divisor of it.
    """

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    multiple_of: int = 1

    def holds(self, number: float) -> bool:
        """Return whether a number is allowed."""
        whole = self.multiple_of == 1 or not number % self.multiple_of
        return self.least <= number <= self.most and number > self.above and whole

    def __str__(self) -> str:
        bounds = [
            f"at least {self.least:g}" if self.least > -math.inf else "",
            f"more than {self.above:g}" if self.above > -math.inf else "",
            f"at most {self.most:g}" if self.most < math.inf else "",
            f"a multiple of {self.multiple_of}" if self.multiple_of > 1 else "",
        ]
        return " and ".join(filter(None, bounds))


@dataclass(frozen=True)
class Parsed:
    """A value with a spelling of its own.

    Attributes:
        parse: returns what the type is then asked about; raises ValueError.
        allowed: what it takes, for messages.
    """

    parse: Callable[[Any], Any]
    allowed: str


def _list_in_file(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(Path(value).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise FileNotFoundError(
            f"{value[:200]} cannot be read ({error.strerror}). It must be a JSON file with a list "
            "of numbers. Give its path."
        ) from error


Length = Annotated[int, Parsed(parse_length, "a number of tokens such as 32768, or 32k")]
Tokens = Annotated[int, Parsed(parse_tokens, "a number of tokens such as 655360, 0.5M or 1B")]


def _folder_name(value: Any) -> str:
    if not isinstance(value, str) or not _FOLDER_NAME.fullmatch(value):
        raise ValueError
    return value


_FOLDER_NAME = re.compile(r"[^\W.][\w.+-]{,99}")
FolderName = Annotated[
    str,
    Parsed(
        _folder_name,
        "a name of at most 100 letters, digits, '_', '.', '+' and '-' that begins with none of "
        "the last three, since a folder is called so",
    ),
]


def _text_of(most: int) -> Parsed:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or len(value) > most:
            raise ValueError
        return value

    return Parsed(parse, f"text of at most {most:,} characters")


ShortText = Annotated[str, _text_of(200)]
"""What stands in every table."""
LongText = Annotated[str, _text_of(10_000)]
Whole = Annotated[int, Range(least=0)]
Count = Annotated[int, Range(least=1)]
NotNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]
Numbers = Annotated[
    tuple[float, ...],
    Parsed(_list_in_file, "a list of numbers, or the path of a JSON file with one"),
]


def read_settings(cls: type[Settings], given: Any, where: str = "", **how: bool) -> Settings:
    """Return the dataclass `cls` made of what was given; see `read_values`.

    Raises:
        ValueError: as `read_values`, or a field without a default is missing.
    """
    values = read_values(cls, given, where, **how)
    known = _fields(cls)
    needed = [key for key, field in known.items() if _is_required(field)]
    if missing := [key for key in needed if known[key].name not in values]:
        raise ValueError(
            f"{where or 'This'} has no {missing[0]!r}. It needs {', '.join(needed)}. Add it."
        )
    return cls(**values)


def read_values(
    cls: type, given: Any, where: str = "", *, strict: bool = True, text: bool = False
) -> dict[str, Any]:
    """Return field -> typed value of what was given, and nothing for what was not.

    Args:
        cls: the dataclass.
        given: a mapping.
        where: it comes from, for messages; empty where that is plain.
        strict: whether a key that is no field is an error; lm-eval's metadata hold those of others.
        text: whether values may be as typed on a command line: `"8"` is a number, and one item
            makes a list.

    Raises:
        ValueError: no mapping, an unknown key, or a value of the wrong type or out of bounds; it
            names what was given, what is allowed and what to do.
    """
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{where} is {shown(given)}; it must be a mapping. Write `key: value` lines."
        )
    hints = typing.get_type_hints(cls, include_extras=True)
    known = _fields(cls)
    if strict:
        check_keys(given, known, where)
    prefix = f"{where}: " if where else ""
    values = {}
    for key, field in known.items():
        if key not in given:
            continue
        hint = hints[field.name]
        try:
            values[field.name] = _typed(given[key], hint, text, f"{where}, {key}".strip(", "))
        except _Unsuitable:
            optional = "" if _is_required(field) else " or leave it out"
            raise ValueError(
                f"{prefix}{key}={shown(given[key])} is not allowed; it must be {_readable(hint)}. "
                f"Change it{optional}."
            ) from None
    return values


def check_folder_name(name: Any, where: str) -> None:
    """Check that a folder can be called so.

    Raises:
        ValueError: it cannot.
    """
    if not isinstance(name, str) or not _FOLDER_NAME.fullmatch(name):
        raise ValueError(
            f"{where}: {shown(name)} is not allowed; it must be {_readable(FolderName)}. Rename it."
        )


def check_keys(given: Iterable[Any], known: Iterable[str], where: str = "") -> None:
    """Raise for the first key that is not known.

    Raises:
        ValueError: naming the near ones and all allowed.
    """
    known = list(known)
    for key in given:
        if key not in known:
            prefix = f"{where}: " if where else ""
            raise ValueError(
                f"{prefix}{shown(key)} is not a setting{near_names(str(key)[:100], known)} "
                f"Allowed: {', '.join(known) or 'none'}. Rename it or leave it out."
            )


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


def field_texts(cls: type) -> dict[str, str]:
    """Return field -> what the docstrings of a dataclass and its bases say of it."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        inside = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
        texts = re.findall(r"^    (\w+): (.+(?:\n     .+)*)", inside, re.MULTILINE)
        found |= {name: re.sub(r"\s+", " ", text) for name, text in texts}
    return found


def add_arguments(parser: Any, cls: type, leave_out: Iterable[str] = (), **more: str) -> None:
    """Add a flag for each field of a dataclass; what is not given is not set.

    Args:
        parser: of argparse; the texts it returns are typed by `read_settings`.
        cls: the dataclass.
        leave_out: fields without a flag.
        more: what is said behind the text of a field in place of its default.
    """
    texts, hints = field_texts(cls), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name in leave_out:
            continue
        default = "" if field.default in ("", (), None, MISSING) else f" (default {field.default})"
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            default=argparse.SUPPRESS,
            required=_is_required(field),
            help=(texts[field.name] + more.get(field.name, default)).replace("%", "%%"),
            **_flag(hints[field.name]),
        )


def _flag(hint: Any) -> dict[str, Any]:
    """Return argparse's keywords for a type."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    optional = typing.get_origin(hint) in (Union, types.UnionType)
    inner = typing.get_args(hint)[0] if optional else hint
    if typing.get_origin(inner) is Literal:
        return {"choices": typing.get_args(inner)}
    return {"nargs": "+"} if typing.get_origin(inner) is tuple else {}


class _Unsuitable(Exception):
    """A value is not of its type."""


def _fields(cls: Any) -> dict[str, Any]:
    """Return key -> field."""
    return {field.metadata.get("key", field.name): field for field in dataclasses.fields(cls)}


def _is_required(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _typed(value: Any, hint: Any, text: bool, where: str) -> Any:
    """Return a value as its type.

    Raises:
        _Unsuitable: it is not of that type.
        ValueError: it is a dataclass, of which something is wrong.
    """
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _annotated(value, inside[0], inside[1:], text, where)
    if origin in (Union, types.UnionType):
        for kind in inside:
            try:
                return _typed(value, kind, text, where)
            except _Unsuitable:
                continue
    elif origin is Literal:
        if value in inside:
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple) or text:
            items = value if isinstance(value, list | tuple) else [value]
            return tuple(_typed(item, inside[0], text, where) for item in items)
    elif is_dataclass(hint):
        return read_settings(typing.cast(type, hint), value, where, text=text)
    elif hint is Any:
        return value
    elif (origin or hint) is dict:
        if isinstance(value, Mapping):
            return dict(value)
    elif hint in (int, float):
        return _number(value, hint, text)
    elif text and hint in (bool, type(None)) and str(value).lower() in _SPELT[hint]:
        return _SPELT[hint][str(value).lower()]
    elif text and hint is str and isinstance(value, Real) and not isinstance(value, bool):
        return str(value)
    elif isinstance(value, origin or hint):
        return value
    raise _Unsuitable


_SPELT: dict[Any, dict[str, Any]] = {
    bool: {"true": True, "false": False},
    type(None): {"none": None},
}


def _annotated(value: Any, kind: Any, marks: tuple, text: bool, where: str) -> Any:
    for mark in marks:
        if isinstance(mark, Parsed):
            try:
                value = mark.parse(value)
            except (TypeError, ValueError, OverflowError) as error:
                raise _Unsuitable from error
    found = _typed(value, kind, text, where)
    if not all(mark.holds(found) for mark in marks if isinstance(mark, Range)):
        raise _Unsuitable
    return found


def _number(value: Any, kind: type, text: bool) -> Any:
    """Return a finite number; a whole one may be spelt `1e9`."""
    if isinstance(value, bool) or not isinstance(value, (Real, str) if text else Real):
        raise _Unsuitable
    try:
        number = float(value)
        if not math.isfinite(number) or (kind is int and number != int(number)):
            raise _Unsuitable
    except (ValueError, OverflowError) as error:
        raise _Unsuitable from error
    if kind is float:
        return number
    if not text and not isinstance(value, Integral):
        raise _Unsuitable
    exact = isinstance(value, Integral) or (isinstance(value, str) and value.strip().isdecimal())
    return int(value) if exact else int(number)  # type: ignore[arg-type]


def _readable(hint: Any) -> str:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        parsed = next((mark.allowed for mark in inside[1:] if isinstance(mark, Parsed)), None)
        bounds = [str(mark) for mark in inside[1:] if isinstance(mark, Range)]
        return " of ".join([parsed or _readable(inside[0]), *bounds])
    if origin in (Union, types.UnionType):
        return " or ".join(map(_readable, inside))
    if origin is Literal:
        return " or ".join(map(repr, inside))
    if origin is tuple:
        return f"a list, of {_readable(inside[0])}"
    return _READABLE.get(origin or hint, getattr(hint, "__name__", str(hint)))
