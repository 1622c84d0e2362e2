"""What there is: the rows of `ctxbench ls` and of the README's tables, from registry and files."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

from ctxbench.core.assets import PACKAGE
from ctxbench.core.errors import near_names, printable
from ctxbench.core.lengths import parse_length
from ctxbench.methods.registry import (
    list_methods,
    list_presets,
    method_definition,
    method_summary,
)
from ctxbench.tasks.leaf_files import all_leaves

_LENGTH = re.compile(r"_(\d+(?:k|m|shot)?)(?=_|$)")


def methods_table() -> list[tuple[str, str]]:
    """Return (method, what it does) without importing any of them."""
    return [(name, method_summary(name)) for name in list_methods()]


def presets_table() -> list[tuple[str, str]]:
    """Return (preset, method and options, source)."""
    return [
        (
            name,
            f"{preset['method']} "
            f"{', '.join(f'{k}={v:g}' for k, v in preset['options'].items())}: {preset['source']}",
        )
        for name, preset in list_presets().items()
    ]


def models_table() -> list[tuple[str, str]]:
    """Return (model type of transformers, which methods work on it, and why others do not)."""
    content = json.loads((PACKAGE / "architectures.json").read_text(encoding="utf-8"))
    return [(kind, _outcomes(found)) for kind, found in content["kinds"].items()]


def _outcomes(found: dict[str, str]) -> str:
    by_outcome: dict[str, list[str]] = {}
    for method, outcome in found.items():
        by_outcome.setdefault(outcome, []).append(method)
    if "all" in found:
        return "all methods" if found["all"] == "works" else f"none: {found['all']}"
    works = ", ".join(by_outcome.pop("works", [])) or "none"
    return "; ".join([works, *(f"not {', '.join(m)}: {why}" for why, m in by_outcome.items())])


def rows_table() -> list[tuple[str, str]]:
    """Return (row of the paper, what it is and where paper and code differ)."""
    from ctxbench.train.recipes import paper_rows

    return [(row.name, f"{row.row}. Differs: {row.differs}") for row in paper_rows().values()]


def describe(name: str) -> str:
    """Return what there is to say of one method, preset, row or task; no file of it is run.

    Raises:
        ValueError: there is nothing of this name; the message lists near names.
    """
    if name in list_methods():
        return _method_details(name)
    tables = {"preset": presets_table(), "row": rows_table()}
    for kind, table in tables.items():
        if name in dict(table):
            return f"{kind} {name}: {dict(table)[name]}"
    families = task_names()
    for family, names in families.items():
        if name in names:
            content = all_leaves()[family][name]
            what = "group of " + ", ".join(content["task"]) if "group" in content else "task"
            return f"{what} {name}: {_family_summary(PACKAGE / 'tasks' / family)}"
    known = [*list_methods(), *(n for table in tables.values() for n, _ in table)]
    known += [each for names in families.values() for each in names]
    raise ValueError(
        f"There is no {name!r}{near_names(name, known)} Give the name of a method, preset, row or "
        "task, or methods, presets, rows or tasks; `ctxbench ls` lists all."
    )


def _method_details(name: str) -> str:
    """Return a method's options with defaults and its docstring, which has the paper."""
    made = method_definition(name)
    tree = ast.parse(made.file.read_text(encoding="utf-8"))
    (node,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == made.class_name)
    options = [
        f"  {ast.unparse(each.target)} = {ast.unparse(each.value) if each.value else '(required)'}"
        f"  ({ast.unparse(each.annotation)})"
        for each in node.body
        if isinstance(each, ast.AnnAssign) and "ClassVar" not in ast.unparse(each.annotation)
    ]
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    about = [ast.get_docstring(tree), ast.get_docstring(node)]
    text = "\n\n".join(
        [
            f"{name} ({made.file.name}; {made.class_name}, with what {bases} has)",
            *filter(None, about),
            "Options, `--model_args method=" + name + ",OPTION=VALUE`:\n" + "\n".join(options)
            if options
            else "No options of its own.",
        ]
    )
    return "\n".join(map(_shown, text.splitlines()))


def _shown(line: str) -> str:
    """Return a line of a stranger's file as a terminal may show it, indented as it was."""
    return " " * (len(line) - len(line.lstrip(" "))) + printable(line).lstrip(" ")


def task_names(*, members: bool = True) -> dict[str, list[str]]:
    """Return family -> names of its tasks and groups, in natural order.

    Args:
        members: also the tasks that stand in a group; without them a group of one task at several
            lengths is shown as those tasks.
    """
    families: dict[str, set[str]] = {}
    grouped: set[str] = set()
    groups: set[str] = set()
    for family, leaves in all_leaves().items():
        families[family] = set(leaves)
        for name, content in leaves.items():
            if "group" in content:
                groups.add(name)
                grouped.update(content["task"])
    if not members:
        ladders = {name for name in grouped if _LENGTH.sub("", name, count=1) in _all(families)}
        hidden = grouped - ladders - groups | {_LENGTH.sub("", name, count=1) for name in ladders}
        families = {family: names - hidden for family, names in families.items()}
    return {family: sorted(names, key=_natural) for family, names in sorted(families.items())}


def tasks_table() -> list[tuple[str, str]]:
    """Return (tasks, what the family measures), one row for names that differ in length or part.

    `ruler_{4k,8k}{,_qa}` are `ruler_4k`, `ruler_8k`, `ruler_4k_qa` and `ruler_8k_qa`. Groups of
    tasks say so.
    """
    rows = []
    groups = {
        name
        for leaves in all_leaves().values()
        for name, content in leaves.items()
        if "group" in content
    }
    for family, names in task_names(members=False).items():
        ladders: dict[tuple[str, str, bool], list[str]] = {}
        for name in names:
            before, length, after = (*_LENGTH.split(name, maxsplit=1), "", "")[:3]
            ladders.setdefault((before, after, name in groups), []).append(length)
        parts: dict[tuple[str, str, bool], list[str]] = {}
        for (before, after, group), lengths in ladders.items():
            stem = f"{before}_{_ladder(lengths)}" if any(lengths) else before
            parts.setdefault((stem, str(lengths), group), []).append(after)
        summary = _family_summary(PACKAGE / "tasks" / family)
        rows += [
            (stem + _choice(after), f"{summary} (groups)" if group else summary)
            for (stem, _, group), after in parts.items()
        ]
    return rows


def markdown(rows: list[tuple[str, str]], head: tuple[str, str]) -> str:
    """Return a Markdown table whose first column is code; rows of the same text are one."""
    texts: dict[str, list[str]] = {}
    for name, text in rows:
        texts.setdefault(text, []).append(f"`{name}`")
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join(lines + [f"| {'<br>'.join(n)} | {text} |" for text, n in texts.items()]) + "\n"


def _family_summary(folder: Path) -> str:
    """Return the title of a family's README, after the colon."""
    readme = folder / "README.md"
    title = readme.read_text(encoding="utf-8").partition("\n")[0] if readme.exists() else ""
    title = title.removeprefix("#").strip()
    return title.partition(":")[2].strip() or title or folder.name


def _ladder(lengths: list[str]) -> str:
    """Return `{2k,4k,8k}`, `{1,5,...,1000}shot`, or the only length."""
    if len(lengths) == 1:
        return lengths[0]
    unit = "shot" if all(length.endswith("shot") for length in lengths) else ""
    numbers = [length.removesuffix(unit) for length in lengths]
    if len(numbers) > 8:
        numbers = [*numbers[:2], "...", numbers[-1]]
    return f"{{{','.join(numbers)}}}{unit}"


def _choice(parts: list[str]) -> str:
    """Return `{,_code,_qa}`, or the only part."""
    return parts[0] if len(parts) == 1 else f"{{{','.join(parts)}}}"


def _all(families: dict[str, set[str]]) -> set[str]:
    return set().union(*families.values())


def _natural(name: str) -> list:
    parts = re.split(r"([1-9]\d*[km]?)", name)
    return [(1, 0, p) if n % 2 == 0 else (0, parse_length(p), "") for n, p in enumerate(parts)]


def refresh(readme: Path) -> None:
    """Write the generated tables of a README anew, between their marks."""
    text = readme.read_text(encoding="utf-8")
    tables = {
        "methods": markdown(methods_table(), ("method", "what it does")),
        "tasks": markdown(tasks_table(), ("tasks", "what they measure")),
    }
    for mark, table in tables.items():
        begin, end = f"<!-- begin {mark} -->\n", f"<!-- end {mark} -->"
        head, _, rest = text.partition(begin)
        text = head + begin + table + end + rest.partition(end)[2]
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    refresh(Path(sys.argv[1]))
