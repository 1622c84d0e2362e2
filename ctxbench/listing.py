"""What there is: the rows of `ctxbench ls` and of the README's tables, from registry and files."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from ctxbench.assets import tasks_path
from ctxbench.methods.registry import list_methods, list_presets, method_summary


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


def task_names() -> dict[str, list[str]]:
    """Return family -> names of its tasks and groups, in natural order."""
    families: dict[str, list[str]] = {}
    for file in sorted(tasks_path().rglob("*.yaml")):
        if file.name.startswith("_"):
            continue
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)
        family = file.relative_to(tasks_path()).parts[0]
        name = content.get("group") or content.get("task")
        if isinstance(name, str):
            families.setdefault(family, []).append(name)
    return {family: sorted(names, key=_natural) for family, names in families.items()}


def tasks_table() -> list[tuple[str, str]]:
    """Return (task pattern, metric and family), names that differ by length alone in one row."""
    rows = []
    for family, names in task_names().items():
        patterns: dict[str, list[str]] = {}
        for name in names:
            stem, _, last = name.rpartition("_")
            key = (stem, last) if re.fullmatch(r"\d+k?|\d+shot", last) else (name, "")
            patterns.setdefault(key[0], []).append(key[1])
        for stem, lengths in patterns.items():
            shown = f"{stem}_{{{','.join(lengths)}}}" if lengths != [""] else stem
            rows.append((shown, _family_summary(tasks_path() / family)))
    return rows


def markdown(rows: list[tuple[str, str]], head: tuple[str, str]) -> str:
    """Return a Markdown table whose first column is code."""
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join(lines + [f"| `{name}` | {text} |" for name, text in rows]) + "\n"


def _family_summary(folder: Path) -> str:
    """Return the title of a family's README, after the colon."""
    readme = folder / "README.md"
    title = readme.read_text(encoding="utf-8").partition("\n")[0] if readme.exists() else ""
    return title.removeprefix("#").partition(":")[2].strip() or folder.name


def _natural(name: str) -> list:
    parts = re.split(r"(\d+k?)", name)
    return [
        (0, int(p.removesuffix("k")) * (1024 if p.endswith("k") else 1), "")
        if re.fullmatch(r"\d+k?", p)
        else (1, 0, p)
        for p in parts
    ]


class _Loader(yaml.SafeLoader):
    """Reads task files without running their `!function` entries."""


_Loader.add_constructor("!function", lambda loader, node: node.value)
