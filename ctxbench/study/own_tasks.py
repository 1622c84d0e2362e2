"""A study's own tasks: what a folder of lm-eval task files has, read without running its code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctxbench.core.content import digest_of
from ctxbench.core.errors import near_names

_PARTS = (".yaml", ".py", ".json", ".jsonl")


def own_tasks(folder: str | None) -> dict[str, dict[str, Any]]:
    """Return names of tasks, groups and tags -> content of a task file that has them.

    Args:
        folder: with task files in any depth; None: there are none.

    Raises:
        ValueError: a task file cannot be read.
    """
    if folder is None:
        return {}
    import yaml

    from ctxbench.core.compat.lm_eval import load_task_file

    found: dict[str, dict[str, Any]] = {}
    for file in sorted(Path(folder).rglob("*.yaml")):
        if not file.name.startswith("_"):
            try:
                content = load_task_file(file, functions=False)
            except yaml.YAMLError as error:
                said = " ".join(str(error).split())
                raise ValueError(f"Task file {file} cannot be read: {said}. Correct it.") from error
            tags = content.get("tag") or []
            for name in (content.get("group") or content.get("task"), *_listed(tags)):
                if isinstance(name, str):
                    found.setdefault(name, content)
    return found


def check_metric(metric: str, task: str, content: dict[str, Any], where: str) -> None:
    """Check that a task has a metric; one that lists none has its type's, and is not checked.

    Raises:
        ValueError: it has others.
    """
    listed = content.get("metric_list") or []
    names = [str(one.get("metric")) for one in listed if isinstance(one, dict)]
    if names and content.get("task") == task and metric.partition(",")[0] not in names:
        raise ValueError(
            f"{where}: task {task} has no metric {metric!r}{near_names(metric, names)} It has: "
            f"{', '.join(names)}. Correct `metric`."
        )


def digest(folder: str | None) -> str | None:
    """Return a digest of the files that decide what the tasks in a folder are."""
    if folder is None:
        return None
    files = (file for file in sorted(Path(folder).rglob("*")) if file.suffix in _PARTS)
    return digest_of(file for file in files if file.is_file())[:16]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
