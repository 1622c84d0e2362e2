"""Registers the model `ctxext` and the task folder with an lm_eval that discovers no plug-ins."""

import functools
import importlib
import os
import sys

from ctxbench.tasks.leaf_files import tasks_path, unlisted_folder

MODEL = ("ctxext", "ctxbench.models.ctxext:CtxExt")


def register(module: str) -> None:
    """Register what belongs to a module of lm_eval that was just imported.

    Args:
        module: `lm_eval.models` or `lm_eval.tasks.manager`.
    """
    if module == "lm_eval.models":
        _register_model()
    elif module == "lm_eval.tasks.manager":
        _register_tasks(sys.modules[module])


def register_all() -> None:
    """Register both now, importing what is needed of lm_eval."""
    for name in ("lm_eval.models", "lm_eval.tasks.manager"):
        importlib.import_module(name)
        register(name)


def _register_model() -> None:
    from lm_eval.api import registry

    if hasattr(registry, "load_plugins"):  # this lm_eval reads our entry points itself
        return
    name, target = MODEL
    if name not in registry.model_registry:
        registry.model_registry.register(name, target=target)


def _register_tasks(manager) -> None:
    """Let every TaskManager that includes the built-in tasks include ours, before the user's.

    Our tasks at lengths that are not listed (`ruler_24k`) are made when they are asked for.
    `CTXBENCH_TASKS_ONLY=1` leaves the built-in tasks out, whose thousands of files take longer to
    read than the rest of a start.
    """
    if hasattr(manager, "discover_plugin_task_paths"):
        return
    cls = manager.TaskManager
    original = cls.__init__
    if getattr(original, "_ctxbench", False):
        return

    @functools.wraps(original)
    def __init__(self, verbosity=None, include_path=None, include_defaults=True, *args, **kwargs):
        given = include_path
        if include_defaults:
            own = (
                [given] if isinstance(given, (str, bytes)) or hasattr(given, "joinpath") else given
            )
            include_path = [str(tasks_path()), *(own or [])]
            include_defaults = os.environ.get("CTXBENCH_TASKS_ONLY") != "1"
        original(self, verbosity, include_path, include_defaults, *args, **kwargs)
        self.include_path = given

    __init__._ctxbench = True  # type: ignore[attr-defined]
    cls.__init__ = __init__
    for name in ("match_tasks", "load"):
        setattr(cls, name, _finding(manager, getattr(cls, name)))


def _finding(manager, method):
    """Wrap a method that takes names: first add what is ours, at a length that is not listed."""

    @functools.wraps(method)
    def find(self, task_list):
        given = task_list if isinstance(task_list, list) else [task_list]
        for name in given:
            if isinstance(name, str) and not self.__class__.match_tasks.__wrapped__(self, [name]):
                _add_unlisted(manager, self, name)
        return method(self, task_list)

    return find


def _add_unlisted(manager, tasks, name: str) -> None:
    """Add the task files behind a name or pattern to a manager that has our tasks."""
    if "ruler_all" not in tasks.task_index or (folder := unlisted_folder(name)) is None:
        return
    found = manager.TaskIndex.build([folder])
    new = {key: entry for key, entry in found.items() if key not in tasks.task_index}
    tasks.task_index.update(new)
    for key, entry in new.items():
        tasks.all_tasks.append(key)
        (tasks.all_groups if entry.kind.name == "GROUP" else tasks.all_subtasks).append(key)
    for names in (tasks.all_tasks, tasks.all_groups, tasks.all_subtasks):
        names.sort()
