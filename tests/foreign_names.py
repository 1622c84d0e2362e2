"""Finds private names, patches and sources of other libraries in our source."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

LIBRARIES = frozenset(
    {"accelerate", "argparse", "datasets", "huggingface_hub", "lm_eval", "nltk", "peft"}
    | {"safetensors", "tokenizers", "torch", "transformers", "wonderwords"}
)
_DUNDERS = {"__getstate__", "__setstate__", "__reduce__", "__code__", "__globals__", "__wrapped__"}
_ALLOWED = {"_exit", "_replace", "_asdict", "_fields", "_make"}  # documented, in spite of the mark
_BY_NAME = ("getattr", "hasattr", "setattr", "delattr")
_LOOKS_INSIDE = ("signature", "getsource", "getsourcefile", "getsourcelines", "getfile")


def own_names(files: Iterable[Path]) -> frozenset[str]:
    """Return the private names that files of ours define."""
    return frozenset().union(*(own_names_of(f.read_text(encoding="utf-8")) for f in files))


def own_names_of(source: str) -> frozenset[str]:
    """Return the private names that a source defines: functions, classes, variables, attributes."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= {node.attr} if ast.unparse(node.value) in ("self", "cls") else set()
    return frozenset(filter(_is_private, found))


def uses(source: str, own: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Yield line and text of each use of what another library does not promise.

    Args:
        source: of one of our files.
        own: private names that are ours.
    """
    tree = ast.parse(source)
    foreign = {name for node in ast.walk(tree) for name in _foreign_imports(node)}
    for node in ast.walk(tree):
        for what in _uses_of(node, own, foreign):
            yield getattr(node, "lineno", 0), what


def _uses_of(node: ast.AST, own: frozenset[str], foreign: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Attribute):
        if node.attr in _DUNDERS or (_is_private(node.attr) and not _is_ours(node.attr, own)):
            yield f"uses .{node.attr}"
        if isinstance(node.ctx, ast.Store | ast.Del):
            patched = node.attr.startswith("__") and node.attr.endswith("__")
            if _root(node) in foreign or patched:
                yield f"assigns {ast.unparse(node)}"
    elif (
        isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("ctxbench")
    ):
        for alias in node.names:
            path = f"{node.module}.{alias.name}"
            if any(map(_is_private, path.split("."))):
                yield f"imports {path}"
    elif isinstance(node, ast.Import):
        for alias in node.names:
            if any(map(_is_private, alias.name.split("."))):
                yield f"imports {alias.name}"
    elif isinstance(node, ast.Call):
        yield from _calls(node, own, foreign)


def _calls(node: ast.Call, own: frozenset[str], foreign: set[str]) -> Iterator[str]:
    name = ast.unparse(node.func).rpartition(".")[2]
    texts = [
        argument.value
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]
    if name in _BY_NAME:
        for text in texts[:1]:
            if text in _DUNDERS or (_is_private(text) and not _is_ours(text, own)):
                yield f"{name} of {text!r}"
        if name in ("setattr", "delattr") and _root(node.args[0]) in foreign:
            yield f"assigns {ast.unparse(node.args[0])}"
    if name in _LOOKS_INSIDE and node.args and _root(node.args[0]) in foreign:
        yield f"{ast.unparse(node.func)} of {ast.unparse(node.args[0])}"
    if name in ("files", "find_spec", "path") and texts and _package(texts[0]) in LIBRARIES:
        yield f"reads inside {texts[0]!r}"


def _foreign_imports(node: ast.AST) -> Iterator[str]:
    """Yield the names by which an import makes something foreign known."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if _package(alias.name) in LIBRARIES:
                yield alias.asname or _package(alias.name)
    elif isinstance(node, ast.ImportFrom) and _package(node.module) in LIBRARIES:
        yield from (alias.asname or alias.name for alias in node.names)


def _package(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _root(node: ast.AST) -> str:
    """Return the name that an expression of attributes begins with."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def _is_ours(name: str, own: frozenset[str]) -> bool:
    return name in own or name in _ALLOWED or name.startswith("_ctxbench")
