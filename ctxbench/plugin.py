"""Registers the model `ctxext` and the task folder with an lm_eval that discovers no plug-ins."""

import functools
import importlib
import os
import sys

from ctxbench.core.assets import tasks_path

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
