"""Something that is used of another library: where it is, why, and an error when it changed."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any


class ForeignChanged(ValueError):
    """Another library lacks, or has changed, what ctxbench uses of it."""


@dataclass(frozen=True)
class Library:
    """Another library.

    Attributes:
        package: its name for pip.
        checked: the versions on which everything used of it was checked.
        install: what gives pip one of these.
    """

    package: str
    checked: str
    install: str

    def __str__(self) -> str:
        return self.package

    @property
    def installed(self) -> str:
        """The version that is installed."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return "(not installed)"


@dataclass(frozen=True)
class Foreign:
    """A name.

    Attributes:
        library: whose it is.
        module: to import it from.
        name: in the module; dots lead into classes.
        why: what ctxbench needs it for, after "to".
    """

    library: Library
    module: str
    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    def find(self) -> Any:
        """Return what the name stands for.

        Raises:
            ForeignChanged: it is gone, or is not what was checked.
        """
        try:
            found = importlib.import_module(self.module)
            for part in self.name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            said = f" ({str(error).splitlines()[0]})" if isinstance(error, ImportError) else ""
            raise self.changed(f"has no {self}{said}") from error
        return found

    def of(self, owner: Any) -> Any:
        """Return this attribute of an object.

        Raises:
            ForeignChanged: the object has none.
        """
        name = self.name.rpartition(".")[2]
        try:
            return getattr(owner, name)
        except AttributeError as error:
            raise self.changed(f"gave a {type(owner).__name__} without {name}") from error

    def changed(self, how: str) -> ForeignChanged:
        """Return the error: what was found, what was checked, what to do."""
        library = self.library
        return ForeignChanged(
            f"{library} {library.installed} {how}, which ctxbench needs to {self.why}. It was "
            f"checked with {library} {library.checked}. Install one of these (pip install "
            f"'{library.install}'), or a newer ctxbench."
        )


@dataclass(frozen=True)
class Hook(Foreign):
    """A method or function whose parameters matter: we override it, or it is called by place.

    Attributes:
        parameters: their names as a signature has them, without `self`.
        more: whether others may follow: it is called, not overridden.
    """

    parameters: str
    more: bool = False

    def find(self) -> Any:
        """Return it, if it has the parameters; see `Foreign.find`."""
        found = super().find()
        function = getattr(found, "fget", None) or getattr(found, "func", None) or found
        has = parameters(function)
        if has != self.parameters and not (self.more and has.startswith(f"{self.parameters}, ")):
            raise self.changed(f"has {self}({has}) instead of ({self.parameters})")
        return found


@dataclass(frozen=True)
class Mention(Foreign):
    """Code that uses a word which we rely on, such as an attribute it sets on an object.

    Attributes:
        word: an attribute, variable or text in the code of the function that is named.
    """

    word: str

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.word})"

    def find(self) -> Any:
        """Return the function, if it mentions the word; see `Foreign.find`."""
        found = super().find()
        function = inspect.unwrap(getattr(found, "fget", None) or found)
        if self.word not in _words(function.__code__):
            raise self.changed(f"does not use {self.word} in {super().__str__()}")
        return found

    def of(self, owner: Any) -> Any:
        """Return the attribute of this name; see `Foreign.of`."""
        try:
            return getattr(owner, self.word)
        except AttributeError as error:
            raise self.changed(f"gave a {type(owner).__name__} without {self.word}") from error


def check(some: Iterable[Foreign]) -> None:
    """Find all of them.

    Raises:
        ForeignChanged: the first that is not as it was checked.
    """
    for entry in some:
        entry.find()


def parameters(function: Any) -> str:
    """Return the names of a function's parameters as its signature has them, without `self`."""
    names: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind == parameter.KEYWORD_ONLY and not any(n[0] == "*" for n in names):
            names.append("*")
        mark = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        names.append(mark + parameter.name)
    return ", ".join(name for name in names if name != "self")


def _words(code: CodeType) -> Iterator[object]:
    """Yield the names and constants of code and of the functions in it."""
    yield from code.co_names
    yield from code.co_varnames
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _words(constant)
        elif isinstance(constant, tuple):
            yield from constant
        else:
            yield constant
