"""ctxbench: controlled comparison of long-context extension methods.

Importing this package makes these names available, lazily, and lets a running lm_eval know of our
model and tasks; it imports nothing else:
`list_methods`, `list_presets`, `get_method`, `add_method_folder`, `extend`, `load_model`,
`save_model`.
"""

from ctxbench import _startup

TYPE_CHECKING = False  # typing's, without the cost of importing typing at interpreter start
if TYPE_CHECKING:
    from ctxbench.methods.registry import (
        add_method_folder,
        get_method,
        list_methods,
        list_presets,
    )
    from ctxbench.models.loading import extend, load_model, save_model

__version__ = "0.1.0"

_HOMES = {
    "add_method_folder": "ctxbench.methods.registry",
    "get_method": "ctxbench.methods.registry",
    "list_methods": "ctxbench.methods.registry",
    "list_presets": "ctxbench.methods.registry",
    "extend": "ctxbench.models.loading",
    "load_model": "ctxbench.models.loading",
    "save_model": "ctxbench.models.loading",
}

__all__ = [
    "add_method_folder",
    "extend",
    "get_method",
    "list_methods",
    "list_presets",
    "load_model",
    "save_model",
]


def __getattr__(name: str):
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    if name[:1].isupper():  # our methods by the names of their classes, for subclasses of them
        from ctxbench.methods.registry import class_called

        if cls := class_called(name):
            return cls
    raise AttributeError(f"module 'ctxbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


_startup.install()
