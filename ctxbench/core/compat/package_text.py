"""A text file inside another package, read without importing the package."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ctxbench.core.compat.foreign import Foreign


@dataclass(frozen=True)
class PackageText(Foreign):
    """A file; `module` is the package, `name` the path in it."""

    def __str__(self) -> str:
        return f"{self.module}/{self.name}"

    def find(self) -> str:
        """Return the text; see `Foreign.find`."""
        return self.read()

    def read(self) -> str:
        """Return the text of the file.

        Raises:
            ForeignChanged: there is none.
        """
        try:
            return (package_folder(self.module) / self.name).read_text("utf-8")
        except FileNotFoundError as error:
            raise self.changed(f"has no {self}") from error


def package_folder(package: str) -> Path:
    """Return the folder of a package.

    Raises:
        FileNotFoundError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"There is no package {package}. Install it with pip.")
    return Path(next(iter(spec.submodule_search_locations)))
