"""RULER's prompt texts, read from the installed lm-eval's sources without importing them.

Importing lm-eval's own RULER modules costs seconds and a gigabyte (a list of six million strings),
so the texts are taken out of the parsed source.
"""

import ast
import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Template:
    """The texts of one family.

    Attributes:
        body: with places for the haystack and the question.
        prefix: the answer's beginning, which always comes last.
    """

    body: str
    prefix: str


@functools.lru_cache
def _source(name: str) -> ast.Module:
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(next(iter(spec.submodule_search_locations))) / "tasks" / "ruler" / name
    if not path.exists():
        raise FileNotFoundError(
            f"RULER's prompt texts are read from the installed lm-eval, which has no {path.name} "
            "in lm_eval/tasks/ruler. Install lm-eval 0.4.13, or a version that has it."
        )
    return ast.parse(path.read_text(encoding="utf-8"))


def _constant(module: ast.Module, name: str):
    """Return the literal that is assigned to a name at the top of a module."""
    for node in module.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            return ast.literal_eval(node.value)
    raise ValueError(f"The installed lm-eval has no constant {name} in its RULER sources any more.")


def _joined(module: ast.Module, ending: str) -> str:
    """Return the f-string with this ending, as a format string."""
    for node in ast.walk(module):
        if isinstance(node, ast.JoinedStr):
            text = "".join(
                f"{{{ast.unparse(part.value)}}}"
                if isinstance(part, ast.FormattedValue)
                else str(ast.literal_eval(part))
                for part in node.values
            )
            if text.endswith(ending):
                return text
    raise ValueError(f"The installed lm-eval has no RULER answer prefix that ends in {ending!r}.")


def needle() -> str:
    """Return the needle's sentence, with `{type_needle_v}`, `{key}` and `{value}`."""
    return _constant(_source("prepare_niah.py"), "NEEDLE")


def noise() -> str:
    """Return the line that fills a noise haystack."""
    for node in ast.walk(_source("prepare_niah.py")):
        if isinstance(node, ast.Constant) and str(node.value).startswith("The grass is green."):
            return str(node.value)
    raise ValueError("The installed lm-eval has no RULER noise line any more.")


def document() -> str:
    """Return how a document is written, with `{i}` and `{document}`."""
    return _constant(_source("qa_utils.py"), "DOCUMENT_PROMPT")


@functools.lru_cache
def template(family: str, misspelled: bool = False) -> Template:
    """Return the texts of a family: niah, vt, cwe, fwe or qa.

    lm-eval stores the prefixes without the space they begin with, and in `vt` keeps a misspelling
    of the paper's time ("assgined") that the official generator has corrected since; `misspelled`
    keeps it too (the LCEG study used it).
    """
    if family == "niah":
        body = _constant(_source("niah_utils.py"), "TEMPLATE")
        prefix = _joined(_source("prepare_niah.py"), "provided text are")
    else:
        config = _constant(_source(f"{family}_utils.py"), "CONFIG")
        config = config.get("variable_tracking", config)
        body, prefix = config["template"], config["answer_prefix"]
    if not misspelled:
        prefix = prefix.replace("assgined", "assigned")
    return Template(body, prefix if prefix.startswith(" ") else f" {prefix}")
