"""Write what the documentation takes from the code: `python docs/generate.py`.

docs/methods.md from the methods' docstrings, and the example files inside CONTRIBUTING.md. A test
fails when either is out of date.
"""

import inspect
import re
from dataclasses import fields
from pathlib import Path

from ctxbench.core.settings import field_texts
from ctxbench.methods.registry import list_methods, list_presets, method_class
from ctxbench.validate.method_subject import Subject

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Methods

Made by `docs/generate.py` from the docstrings in `ctxbench/methods/`. Notation: `d` rotary
dimension, `b` rotary base, `theta_j = b ** (-2j / d)` frequency of pair `j`, `C` the model's
original window, `L` the final length of a request (prompt and what is generated), `s` a factor;
lengths in tokens. Options are given as `--model_args method=NAME,OPTION=VALUE`, and `length` to
every method.

The table: what a token attends to; whether the method means anything without training; when
requests that begin alike share what was computed (`reuse_key`); what plain transformers does with a
saved checkpoint, on Llama with the method's defaults.

| method | attends to | training | shares prefixes | plain transformers |
|---|---|---|---|---|
"""
NEEDED = {"longrope": {"long_factor": [2.0] * 8}}
"""Options without which a method does not begin."""


def methods_page() -> str:
    """Return docs/methods.md."""
    names = list_methods()
    rows = "".join(_row(name) for name in names)
    return HEAD + rows + "\n" + "\n".join(map(_section, names)) + "\n" + _presets()


def _row(name: str) -> str:
    subject = Subject(name, NEEDED.get(name, {}))
    method, config = subject.method, subject.model.config
    keys = [method.reuse_key(config, length) for length in (32, 128, 256)]
    shares = (
        "never" if None in keys else "always" if len(set(keys)) == 1 else "at equal frequencies"
    )
    sees = "all tokens" if method.exact else "some"
    training = "needed" if method.needs_training else "optional"
    plain = "the same" if method.plain_checkpoint(config) else "refuses"
    link = f"[`{name}`](#{name.replace('_', '-')})"
    return f"| {link} | {sees} | {training} | {shares} | {plain} |\n"


def _section(name: str) -> str:
    cls = method_class(name)
    module = inspect.getdoc(inspect.getmodule(cls)) or ""
    title, _, text = module.partition("\n")
    lines = [f"## {name}", "", title, text.rstrip(), ""]
    described = field_texts(cls)
    options = [f for f in fields(cls) if f.name != "length"]
    if options:
        lines += ["| option | default | |", "|---|---|---|"]
        lines += [f"| `{f.name}` | `{f.default}` | {_cell(described[f.name])} |" for f in options]
        lines += [""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _presets() -> str:
    lines = ["## Presets", "", "Rows of the paper that a method's defaults do not give.", ""]
    lines += ["| preset | method and options | source |", "|---|---|---|"]
    for name, preset in list_presets().items():
        options = ", ".join(f"{key}={value:g}" for key, value in preset["options"].items())
        lines.append(f"| `{name}` | `{preset['method']}`: {options} | {preset['source']} |")
    return "\n".join(lines) + "\n"


def with_examples(text: str) -> str:
    """Return a page with the files its `begin FILE` marks name, as code between the marks."""

    def block(found: re.Match) -> str:
        file = ROOT / found[1]
        kind = {".py": "python", ".yaml": "yaml"}[file.suffix]
        code = file.read_text(encoding="utf-8")
        return f"<!-- begin {found[1]} -->\n```{kind}\n{code}```\n<!-- end {found[1]} -->"

    pattern = r"<!-- begin (examples/\S+) -->\n.*?<!-- end \1 -->"
    return re.sub(pattern, block, text, flags=re.DOTALL)


def pages() -> dict[Path, str]:
    """Return file -> what it should hold."""
    contributing = ROOT / "CONTRIBUTING.md"
    return {
        ROOT / "docs" / "methods.md": methods_page(),
        contributing: with_examples(contributing.read_text(encoding="utf-8")),
    }


if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
