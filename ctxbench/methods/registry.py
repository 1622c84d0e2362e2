"""Finding methods: the name in a class statement registers it.

`class YaRN(PositionMethod, name="yarn")`: the name is read from the source, so that listing runs
nobody's file. In a file where no class has a name, the only class derived from a `*Method` is
registered under the file's name.
"""

import ast
import importlib
import importlib.util
import logging
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

_FOLDER = Path(__file__).resolve().parent
_EXTRA: list[Path] = []
_TOLD: set[str] = set()
log = logging.getLogger(__name__)

MethodLike = str | Method | type[Method]
"""Name of a method or preset, a method with its options, or a class."""


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
        broken = [reason for folder in _user_folders() for reason in _readable(folder)[1]]
        if broken and Path(broken[0].partition(",")[0]).stem == name:
            raise ValueError(broken[0])
        raise ValueError(
            f"There is no method {name!r}{near_names(str(name), [*found, *list_presets()])} "
            f"Methods: {', '.join(sorted(found))}. Presets: {', '.join(list_presets())}. "
            "A method file of your own is found with CTXBENCH_METHODS=FOLDER."
            + (f" Passed over: {' '.join(broken)}" if broken else "")
        )
    return _load(found[name])


def class_called(class_name: str) -> type[Method] | None:
    """Return our own method whose class is called so, None if there is none."""
    for found in _definitions_in(_FOLDER):
        if found.class_name == class_name:
            return _load(found)
    return None


def method_definition(name: str) -> Definition:
    """Return where a method is written; its file is read, not run."""
    return _definitions()[name]


def method_summary(name: str) -> str:
    """Return the first line of a method's docstring, without importing it."""
    return _definitions()[name].summary


def get_method(name: MethodLike | None, **options: Any) -> Method:
    """Return a method with these options.

    Args:
        name: of a method (`list_methods`) or a preset (`list_presets`), or a class, or a method;
            None is `none`.
        options: its fields; `length` is also accepted as `32k`. They replace a preset's.

    Raises:
        ValueError: unknown name or option, or a value of the wrong type; a class that cannot be
            used, or an option that contradicts the given method's own.
    """
    cls, given = class_and_options(name, **options)
    return cls(**read_values(cls, given, f"method={cls.name}", text=True))


def class_and_options(
    method: MethodLike | None, **options: Any
) -> tuple[type[Method], dict[str, Any]]:
    """Return the class of a method, and `options` over what a preset or a method brings.

    Raises:
        ValueError: as `get_method`, but the options are not read.
    """
    if isinstance(method, Method):
        return _usable(type(method)), _over_own(method, options)
    if isinstance(method, type):
        return _usable(method), options
    name, presets = str(method or "none"), list_presets()
    if name not in _definitions() and name in presets:
        return method_class(presets[name]["method"]), {**presets[name]["options"], **options}
    return method_class(name), options


def check_findable(cls: type[Method]) -> None:
    """Check that a class can be found again by the name that a checkpoint records.

    Raises:
        ValueError: it is known to this process only.
    """
    if _definition_of(cls) is None:
        file = _file_of(cls)
        raise ValueError(
            f"class {cls.__name__} (method={cls.name}) is not found by its name, so a checkpoint "
            "of it could not be opened again; allowed are classes of files in folders of methods. "
            f"{'Register the folder' if file else 'Write it into a file and register its folder'}: "
            f"ctxbench.add_method_folder({str(file.parent if file else 'FOLDER')!r}), or "
            "CTXBENCH_METHODS for commands."
        )


def _over_own(method: Method, options: dict[str, Any]) -> dict[str, Any]:
    """Return a method's own options that are not None, completed by others."""
    cls = type(method)
    own = {"length": method.length, **method.options()}
    own = {name: value for name, value in own.items() if value is not None}
    for name, value in read_values(cls, options, f"method={cls.name}", text=True).items():
        if own.get(name, value) != value:
            raise ValueError(
                f"method={cls.name} was given with {name}={own[name]!r}, and {name}={value!r} "
                "beside it; allowed is what it leaves open. Leave one out, or give the class."
            )
    return {**options, **own}


def _usable(cls: type) -> type[Method]:
    """Return a class that a user gave, its name set.

    Raises:
        ValueError: it is no method, has no name, or has that of another method.
    """
    if not issubclass(cls, Method):
        raise ValueError(
            f"method={cls.__name__} is no class of a method; allowed is one that is derived from "
            "Method, PositionMethod or AttentionMethod. Give one, or a name."
        )
    found = _definition_of(cls)
    if found is None:
        _check_new_name(cls)
    return _named(cls, found.name if found else cls.name, f"class {cls.__name__}")


def _check_new_name(cls: type[Method]) -> None:
    if not cls.name:
        raise ValueError(
            f"class {cls.__name__} has no name, which a record needs. Write "
            f'class {cls.__name__}({cls.__bases__[0].__name__}, name="my_method").'
        )
    same = _definitions().get(cls.name)
    if same or cls.name in list_presets():
        raise ValueError(
            f"class {cls.__name__} has the name {cls.name!r} of "
            f"{f'the method of {same.place}' if same else 'a preset'}. Give it another name."
        )


def _definition_of(cls: type[Method]) -> Definition | None:
    """Return where a class is registered, None if it is not."""
    file = _file_of(cls)
    for found in _definitions().values():
        if (found.file, found.class_name) == (file, cls.__qualname__):
            return found
    return None


def _file_of(cls: type) -> Path | None:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return Path(file).resolve() if file else None


def _user_folders() -> list[Path]:
    """Return the folders of `CTXBENCH_METHODS`, and added ones."""
    extra = [Path(p) for p in os.environ.get("CTXBENCH_METHODS", "").split(os.pathsep) if p]
    return list(dict.fromkeys([*(p.expanduser().resolve() for p in extra), *_EXTRA]))


def _definitions() -> dict[str, Definition]:
    """Return methods by name over our folder, `CTXBENCH_METHODS` and added folders."""
    found = {made.name: made for made in _definitions_in(_FOLDER)}
    for folder in _user_folders():
        if not folder.is_dir():
            raise ValueError(f"CTXBENCH_METHODS names {folder}, which is not a folder. Correct it.")
        users, broken = _readable(folder)
        for reason in set(broken) - _TOLD:
            log.warning("Passed over, the other methods are found: %s", reason)
            _TOLD.add(reason)
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


def _readable(folder: Path) -> tuple[list[Definition], list[str]]:
    """Return the methods of a user's folder, and what is wrong with its other files."""
    users, broken = [], []
    for file in sorted(folder.glob("*.py")):
        try:
            users += _read(file, file.stat().st_mtime_ns)
        except ValueError as error:
            broken.append(str(error))
    return users, broken


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
        named = [(node, file.stem) for node in _only_method(classes, file)]
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


def _only_method(classes: list[ast.ClassDef], file: Path) -> list[ast.ClassDef]:
    """Return the method of a file without names: a class that no other class there derives from.

    Raises:
        ValueError: there are several.
    """
    methods: dict[str, ast.ClassDef] = {}
    bases: set[str] = set()
    for node in classes:
        above = [ast.unparse(base) for base in node.bases]
        if any(base.endswith("Method") or base in methods for base in above):
            methods[node.name] = node
            bases |= {*above, *([node.name] if _is_abstract(above) else [])}
    found = [node for name, node in methods.items() if name not in bases]
    if len(found) > 1:
        places = " and ".join(f"{node.name} (line {node.lineno})" for node in found)
        raise ValueError(
            f"{file}: {places} are derived from a method's class and none has a name; allowed "
            "without a name is one method in a file. Write it into the class statement, as in "
            f'class {found[0].name}({ast.unparse(found[0].bases[0])}, name="my_method"); a class '
            "that is only a base of others derives from abc.ABC too."
        )
    return found


def _is_abstract(bases: list[str]) -> bool:
    return any(base in ("ABC", "abc.ABC") for base in bases)


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
    return _named(cls, found.name, f"{found.place}: {found.class_name}")


def _named(cls: type[Method], name: str, place: str) -> type[Method]:
    """Return a dataclass with its name, which its class statement may lack."""
    if "__dataclass_params__" not in cls.__dict__:
        raise ValueError(
            f"{place} is no dataclass, so its options would not be seen. "
            "Write @dataclass(frozen=True, kw_only=True) above it."
        )
    cls.name = name
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
