"""Finding methods: a file that defines one is registered under the file's name."""

import ast
import importlib
import importlib.util
import os
import sys
from dataclasses import is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ctxbench.core.errors import near_names
from ctxbench.core.settings import read_values
from ctxbench.core.text_files import read_yaml

_FOLDER = Path(__file__).parent
_EXTRA: list[Path] = []


def add_method_folder(folder: str | os.PathLike) -> None:
    """Register the method files of another folder, for this process.

    For commands, set `CTXBENCH_METHODS` to the folder (several: separated as in `PATH`).
    """
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        raise ValueError(f"{folder} is not a folder; give the folder that holds method files.")
    if path not in _EXTRA:
        _EXTRA.append(path)


def list_methods() -> list[str]:
    """Return the names of all methods, sorted, without importing any of them."""
    return sorted(_files())


def list_presets() -> dict[str, dict[str, Any]]:
    """Return the named option sets of the paper's rows: name -> `method`, `options`, `source`."""
    return read_yaml(_FOLDER / "presets.yaml")


def method_class(name: str) -> Any:
    """Return the class of a method.

    Raises:
        ValueError: no such method; the message lists near names.
    """
    files = _files()
    if name not in files:
        raise ValueError(
            f"There is no method {name!r}{near_names(str(name), [*files, *list_presets()])} "
            f"Methods: {', '.join(sorted(files))}. Presets: {', '.join(list_presets())}. "
            "A method file of your own is found with CTXBENCH_METHODS=FOLDER."
        )
    return _load(name, files[name])


def method_summary(name: str) -> str:
    """Return the first line of a method's docstring, without importing it."""
    tree = ast.parse(_files()[name].read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def get_method(name: str | None, **options: Any) -> Any:
    """Return a method with these options.

    Args:
        name: a method (`list_methods`) or a preset (`list_presets`); None is `none`.
        options: its fields; `length` is also accepted as `32k`. They replace a preset's.

    Raises:
        ValueError: unknown name or option, or a value of the wrong type.
    """
    chosen, preset = method_and_options(str(name or "none"))
    cls = method_class(chosen)
    return cls(**read_values(cls, {**preset, **options}, f"method={chosen}", text=True))


def method_and_options(name: str) -> tuple[str, dict[str, Any]]:
    """Return the method a name stands for and the options a preset brings ({} for a method)."""
    presets = list_presets()
    if name not in _files() and name in presets:
        return presets[name]["method"], dict(presets[name]["options"])
    return name, {}


def _files() -> dict[str, Path]:
    """Return method name -> file over our folder, `CTXBENCH_METHODS` and added folders."""
    extra = [Path(p) for p in os.environ.get("CTXBENCH_METHODS", "").split(os.pathsep) if p]
    found: dict[str, Path] = {}
    for folder in [_FOLDER, *(p.expanduser().resolve() for p in extra), *_EXTRA]:
        if not folder.is_dir():
            raise ValueError(f"CTXBENCH_METHODS names {folder}, which is not a folder. Mend it.")
        for file in sorted(folder.glob("*.py")):
            if not _defines_method(file, file.stat().st_mtime_ns):
                continue
            if found.setdefault(file.stem, file) != file:
                raise ValueError(
                    f"Method {file.stem!r} is defined twice: {found[file.stem]} and {file}. "
                    "Rename one file."
                )
    return found


@lru_cache(maxsize=256)
def _defines_method(file: Path, modified: int) -> bool:
    """Return whether a file has a class derived from a `*Method`."""
    return _method_class_name(file) is not None


def _method_class_name(file: Path) -> str | None:
    """Return the first class derived from a `*Method`; our own `*Method`s are bases of others."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ValueError(
            f"{file}, line {error.lineno}, is not Python: {error.msg}. A folder of methods holds "
            "Python files only; mend the line, or move the file elsewhere."
        ) from error
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        if file.parent == _FOLDER and node.name.endswith("Method"):
            continue
        bases = [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
                 for base in node.bases]  # fmt: skip
        if any(base.endswith("Method") for base in bases):
            return node.name
    return None


def _load(name: str, file: Path) -> Any:
    if file.parent == _FOLDER:
        module = importlib.import_module(f"ctxbench.methods.{name}")
    else:
        key = f"ctxbench_methods_extra.{name}"
        module = sys.modules.get(key)
        if module is None or Path(str(module.__file__)) != file:
            spec = importlib.util.spec_from_file_location(key, file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[key] = module
            spec.loader.exec_module(module)
    cls = getattr(module, _method_class_name(file) or "")
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise ValueError(f"{file}: {cls.__name__} must be a @dataclass(frozen=True, kw_only=True).")
    setattr(cls, "name", name)  # noqa: B010
    return cls
