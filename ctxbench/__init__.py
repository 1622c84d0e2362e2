"""ctxbench: controlled comparison of long-context extension methods.

Importing this package makes these names available, lazily, and lets a running lm_eval know of our
model and tasks; it imports nothing else. The names of `__all__` are the public interface.
"""

from ctxbench import _startup

TYPE_CHECKING = False  # typing's, without the cost of importing typing at interpreter start
if TYPE_CHECKING:
    from ctxbench.core.stdlib_corpus import NOUNS
    from ctxbench.methods.attention import AttentionMethod
    from ctxbench.methods.base import Method, check_positive, length_ratio
    from ctxbench.methods.record import read_record
    from ctxbench.methods.registry import add_method_folder, get_method, list_methods, list_presets
    from ctxbench.methods.rotary import PositionMethod, inverse_frequencies, rotary_base, rotary_dim
    from ctxbench.models.evaluating import evaluate_model
    from ctxbench.models.export import export_checkpoint
    from ctxbench.models.loading import extend, load_model, save_model
    from ctxbench.models.temporary import extended
    from ctxbench.tasks.tokenizer import load_tokenizer, tokenizer_name
    from ctxbench.train.config import TrainConfig
    from ctxbench.train.run import train_model

__version__ = "0.1.0"

_HOMES = {
    "NOUNS": "ctxbench.core.stdlib_corpus",
    "AttentionMethod": "ctxbench.methods.attention",
    "Method": "ctxbench.methods.base",
    "check_positive": "ctxbench.methods.base",
    "length_ratio": "ctxbench.methods.base",
    "read_record": "ctxbench.methods.record",
    "add_method_folder": "ctxbench.methods.registry",
    "get_method": "ctxbench.methods.registry",
    "list_methods": "ctxbench.methods.registry",
    "list_presets": "ctxbench.methods.registry",
    "PositionMethod": "ctxbench.methods.rotary",
    "inverse_frequencies": "ctxbench.methods.rotary",
    "rotary_base": "ctxbench.methods.rotary",
    "rotary_dim": "ctxbench.methods.rotary",
    "evaluate_model": "ctxbench.models.evaluating",
    "export_checkpoint": "ctxbench.models.export",
    "extend": "ctxbench.models.loading",
    "load_model": "ctxbench.models.loading",
    "save_model": "ctxbench.models.loading",
    "extended": "ctxbench.models.temporary",
    "load_tokenizer": "ctxbench.tasks.tokenizer",
    "tokenizer_name": "ctxbench.tasks.tokenizer",
    "TrainConfig": "ctxbench.train.config",
    "train_model": "ctxbench.train.run",
}

__all__ = [
    "NOUNS",
    "AttentionMethod",
    "Method",
    "PositionMethod",
    "TrainConfig",
    "add_method_folder",
    "check_positive",
    "evaluate_model",
    "export_checkpoint",
    "extend",
    "extended",
    "get_method",
    "inverse_frequencies",
    "length_ratio",
    "list_methods",
    "list_presets",
    "load_model",
    "load_tokenizer",
    "read_record",
    "rotary_base",
    "rotary_dim",
    "save_model",
    "tokenizer_name",
    "train_model",
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
