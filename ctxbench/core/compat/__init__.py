"""What ctxbench uses of other libraries beyond what they promise: private names, patches, sources.

One file for each library, with what is used, why, and functions around it. A name that is gone or
changed is an error that says which, and which versions have it. Nothing foreign is imported before
it is asked for. `python -m ctxbench.core.compat` looks at everything in what is installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from ctxbench.core.compat.foreign import Foreign, ForeignChanged

_MODULES = (
    "accelerate",
    "datasets",
    "lm_eval",
    "nltk",
    "templates",
    "tokenizers",
    "torch",
    "transformers",
    "wonderwords",
)


def entries() -> Iterator[Foreign]:
    """Yield everything that is used."""
    for name in _MODULES:
        yield from importlib.import_module(f"{__name__}.{name}").ENTRIES


def broken() -> Iterator[tuple[Foreign, ForeignChanged | None]]:
    """Yield everything that is used, with what is wrong with it in the installed version."""
    for entry in entries():
        try:
            entry.find()
        except ForeignChanged as error:
            yield entry, error
        else:
            yield entry, None
