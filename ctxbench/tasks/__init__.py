"""Task families for lm-eval; one folder each."""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Moved(ModuleType):
    """A family's `build`, as task files of version 0.1.0 have it; `dataset` now."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # looked at in every module by `inspect`
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__.replace("build", "dataset")), name)


for _family in ("longbench", "manyshot", "mini", "niah", "passkey", "perplexity", "ruler"):
    _name = f"{__name__}.{_family}.build"
    sys.modules[_name] = _Moved(_name)
