"""Finding methods: the name in a class statement registers it.

`class YaRN(PositionMethod, name="yarn")`: the name is read from the source, so that listing runs
nobody's file. In a file where no class has a name, the only class derived from a `*Method` is
registered under the file's name.
"""

import ast
import importlib
import importlib.util
import os
import sys
import traceback
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ctxbench.core.errors import near_names
from ctxbench.core.settings import read_values
from ctxbench.core.text_files import read_yaml
from ctxbench.methods.base import Method, check_name

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


@dataclass(frozen=True)
class Definition:
    """Where a method is written.

    Attributes:
        name: of the method.
        class_name: of its class.
        file: that defines it.
        line: of the class statement.
        summary: the first line of its docstring, or of the file's where the file is all its own.
    """

    name: str
    class_name: str
    file: Path
    line: int
    summary: str

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.file}, line {self.line}"


def list_methods() -> list[str]:
    """Return the names of all methods, sorted, without importing any of them."""
    return sorted(_definitions())


def methods_in(file: str | os.PathLike) -> list[str]:
    """Return the names of the methods that a file defines, as they are written.

    Raises:
        ValueError: it is not Python, or a class statement has a name that is not allowed.
    """
    path = Path(file).expanduser().resolve()
    return [found.name for found in _read(path, path.stat().st_mtime_ns)]


def list_presets() -> dict[str, dict[str, Any]]:
    """Return the named option sets of the paper's rows: name -> `method`, `options`, `source`."""
    return read_yaml(_FOLDER / "presets.yaml")


def method_class(name: str) -> type[Method]:
    """Return the class of a method.

    Raises:
        ValueError: no such method, and the message lists near names; or its file cannot be used.
    """
    found = _definitions()
    if name not in found:
        raise ValueError(
            f"There is no method {name!r}{near_names(str(name), [*found, *list_presets()])} "
            f"Methods: {', '.join(sorted(found))}. Presets: {', '.join(list_presets())}. "
            "A method file of your own is found with CTXBENCH_METHODS=FOLDER."
        )
    return _load(found[name])


def class_called(class_name: str) -> type[Method] | None:
    """Return our own method whose class is called so, None if there is none."""
    for found in _definitions_in(_FOLDER):
        if found.class_name == class_name:
            return _load(found)
    return None


def method_summary(name: str) -> str:
    """Return the first line of a method's docstring, without importing it."""
    return _definitions()[name].summary


def get_method(name: str | None, **options: Any) -> Method:
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
    if name not in _definitions() and name in presets:
        return presets[name]["method"], dict(presets[name]["options"])
    return name, {}


def _definitions() -> dict[str, Definition]:
    """Return methods by name over our folder, `CTXBENCH_METHODS` and added folders."""
    extra = [Path(p) for p in os.environ.get("CTXBENCH_METHODS", "").split(os.pathsep) if p]
    found = {made.name: made for made in _definitions_in(_FOLDER)}
    for folder in dict.fromkeys([*(p.expanduser().resolve() for p in extra), *_EXTRA]):
        if not folder.is_dir():
            raise ValueError(f"CTXBENCH_METHODS names {folder}, which is not a folder. Correct it.")
        users = _definitions_in(folder)
        presets = list_presets() if users else {}
        for made in users:
            if made.name in presets:
                raise ValueError(
                    f"{made.place}: a preset is called {made.name!r}, so a method cannot be. "
                    "Give it another name."
                )
            before = found.setdefault(made.name, made)
            if before != made:
                raise ValueError(
                    f"Method {made.name!r} is defined twice: {before.place}, and {made.place}. "
                    "Rename one."
                )
    return found


def _definitions_in(folder: Path) -> list[Definition]:
    return [
        made
        for file in sorted(folder.glob("*.py"))
        for made in _read(file, file.stat().st_mtime_ns)
    ]


@lru_cache(maxsize=256)
def _read(file: Path, modified: int) -> tuple[Definition, ...]:
    """Return the methods that a file's source defines."""
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"{file}, line {getattr(error, 'lineno', 1)}, is not Python: "
            f"{getattr(error, 'msg', error)}. A folder of methods holds Python files only; "
            "correct the line, or move the file elsewhere."
        ) from error
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    named = [
        (node, _literal_name(keyword.value, f"{file}, line {node.lineno}"))
        for node in classes
        for keyword in node.keywords
        if keyword.arg == "name"
    ]
    if not named and file.parent != _FOLDER:
        derived = [node for node in classes if any(map(_ends_in_method, node.bases))]
        named = [(node, file.stem) for node in derived] if len(derived) == 1 else []
    whole = ast.get_docstring(tree) if len(named) == 1 else None
    return tuple(
        Definition(
            name, node.name, file, node.lineno,
            (whole or ast.get_docstring(node) or "").partition("\n")[0],
        )
        for node, name in named
    )  # fmt: skip


def _literal_name(value: ast.expr, place: str) -> str:
    """Return the text of `name=...` in a class statement."""
    if not isinstance(value, ast.Constant):
        raise ValueError(
            f"{place}: name={ast.unparse(value)} is not a text in quotes, and methods are listed "
            'without running their files. Write the name itself, as in name="my_method".'
        )
    return check_name(value.value, f"{place}: ")


def _ends_in_method(base: ast.expr) -> bool:
    return ast.unparse(base).endswith("Method")


def _load(found: Definition) -> type[Method]:
    """Return the class of a definition; its file is run here, once."""
    if found.file.parent == _FOLDER:
        module = importlib.import_module(f"ctxbench.methods.{found.file.stem}")
    else:
        module = _run_file(found.file)
    cls = getattr(module, found.class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise ValueError(
            f"{found.place}: {found.class_name} is not derived from Method, PositionMethod or "
            "AttentionMethod. Derive it from one, or leave out its name=."
        )
    if "__dataclass_params__" not in cls.__dict__:
        raise ValueError(
            f"{found.place}: {found.class_name} is no dataclass, so its options would not be seen. "
            "Write @dataclass(frozen=True, kw_only=True) above it."
        )
    cls.name = found.name  # for a file whose class statement has none
    return cls


def _run_file(file: Path) -> ModuleType:
    """Return the module of a user's file; two files of one name in two folders are two modules."""
    key = f"ctxbench_methods_extra.{file.stem}_{zlib.crc32(bytes(file)):08x}"
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[key] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises
        del sys.modules[key]
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f.lineno for f in reversed(frames) if f.filename == str(file)), 1)
        raise ValueError(
            f"{file}, line {line}, cannot be imported: {type(error).__name__}: {error}. Correct "
            "the line; `ctxbench ls` lists a file's methods without running it."
        ) from error
    return module
