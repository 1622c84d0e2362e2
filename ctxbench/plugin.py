"""Registers the model `ctxext` and the task folder with an lm_eval that discovers no plug-ins."""

import importlib
import sys

from ctxbench.core.compat import lm_eval
from ctxbench.tasks.leaf_files import tasks_path, unlisted_folder

MODEL = ("ctxext", "ctxbench.models.ctxext:CtxExt")


def register(module: str) -> None:
    """Register what belongs to a module of lm_eval that was just imported.

    Args:
        module: `lm_eval.models` or `lm_eval.tasks.manager`.
    """
    if module == "lm_eval.models":
        lm_eval.add_model(*MODEL)
    elif module == "lm_eval.tasks.manager":
        lm_eval.include_tasks(sys.modules[module], tasks_path, unlisted_folder)


def register_all() -> None:
    """Register both now, importing what is needed of lm_eval."""
    for name in ("lm_eval.models", "lm_eval.tasks.manager"):
        importlib.import_module(name)
        register(name)
