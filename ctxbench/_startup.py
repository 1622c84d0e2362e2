"""Lets lm-evaluation-harness find us without a flag, at the cost of one look per interpreter start.

Releases up to 0.4.13 discover no plug-ins. `ctxbench_autoload.pth` (`.start` from Python 3.15 on,
PEP 829) imports this file, which only puts a finder into `sys.meta_path`; it acts when, and only
when, lm_eval's model list or task manager is imported, and then steps aside. Later releases read
our entry points, and `ctxbench.plugin` does nothing there: the finder answers for the package of
task files, which is made in the cache. `CTXBENCH_NO_AUTOLOAD=1` turns all of it off.
"""

import sys

HOOKED = ("lm_eval.models", "lm_eval.tasks.manager")
TASK_FILES = "ctxbench.task_files"
"""The entry point of `lm_eval.tasks`: a package in the cache, not in ctxbench's folder."""


class _AfterImport:
    """Meta-path finder that calls `ctxbench.plugin` after one of `HOOKED` was imported."""

    def __init__(self):
        self.waiting = set(HOOKED)

    def find_spec(self, name, path=None, target=None):
        if name == TASK_FILES:
            from ctxbench.tasks.leaf_files import package_spec

            return package_spec(name)
        if name not in self.waiting:
            return None
        self.waiting.discard(name)
        for finder in list(sys.meta_path):
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None and hasattr(spec.loader, "exec_module"):
                return _with_hook(spec)
        return None


def _with_hook(spec):
    run = spec.loader.exec_module

    def exec_module(module):
        run(module)
        _register(module.__name__)

    spec.loader.exec_module = exec_module
    return spec


def _register(name):
    try:
        from ctxbench import plugin

        plugin.register(name)
    except Exception as error:  # nothing of ours may break another model's evaluation
        import warnings

        warnings.warn(f"ctxbench could not register with lm_eval: {error!r}", stacklevel=2)


def install():
    """Register now what is imported already, and later what is not; repeated calls do nothing."""
    if any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        return
    os = sys.modules.get("os")
    if os is not None and os.environ.get("CTXBENCH_NO_AUTOLOAD") == "1":
        return
    finder = _AfterImport()
    for name in HOOKED:
        if name in sys.modules:
            finder.waiting.discard(name)
            _register(name)
    sys.meta_path.insert(0, finder)
