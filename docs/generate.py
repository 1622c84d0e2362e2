"""Write what the documentation takes from the code: `python docs/generate.py`.

docs/methods.md from the methods' docstrings, docs/models.md from the table of model types, and the
example files inside CONTRIBUTING.md. A test fails when one of them is out of date.
"""

import inspect
import json
import re
from dataclasses import fields
from pathlib import Path

from ctxbench import listing
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


MODELS = """# Models

<!-- Written by `docs/generate.py` from what `python -m tests.methods.architectures` found. -->

Every causal model of transformers {version}, small and random, under {methods}. *Works* means: the
proof at attachment passed, texts of 600 tokens were read and continued. Anything else is refused
when the method is attached, by the same line.

Whatever this table says, a method is proven on the very model that it is attached to: at the
setting at which it changes nothing (factor 1, a window wider than the text, the base's own
frequencies) attention must give what the plain model gives, on 16 tokens, read at once and decoded
after a cache; and some layer must follow the angles. The largest difference allowed is 2e-5 of what
attention gives in float32, which layers up to 256 million parameters run in, 5e-2 in bfloat16. Of
layers that are alike one runs, so that it takes a second at most on a model of a billion
parameters. Nothing is kept of it, so nothing can be out of date. `proof=off` leaves it out, and
results say so.

A method names the layers that it changes (`layers` in results): position methods those that follow
the model's rotary module, and of models with rotary settings for each type of layer (Gemma-3) those
that see the whole text; attention methods those that see the whole text. Layers with a sliding
window or chunks of their own keep them. `sliding_window=none` takes windows away where all layers
share their rotary settings; `layers=full` lets sliding layers keep the angles that they were
trained with. {listed}
"""


def models_page() -> str:
    """Return the page of model types."""
    content = json.loads((ROOT / "ctxbench" / "architectures.json").read_text(encoding="utf-8"))
    named = next(found for found in content["kinds"].values() if "all" not in found)
    head = ("model type", "methods")
    return (
        MODELS.format(
            version=content["transformers"],
            methods=", ".join(f"`{name}`" for name in named),
            listed="`ctxbench ls models` prints this table.",
        )
        + "\n"
        + listing.markdown(listing.models_table(), head)
    )


def pages() -> dict[Path, str]:
    """Return file -> what it should hold."""
    contributing = ROOT / "CONTRIBUTING.md"
    return {
        ROOT / "docs" / "methods.md": methods_page(),
        ROOT / "docs" / "models.md": models_page(),
        contributing: with_examples(contributing.read_text(encoding="utf-8")),
    }


if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
