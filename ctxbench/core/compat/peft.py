"""A version of peft that needs a word said for it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def old_name_asked() -> Iterator[None]:
    """Silence transformers, which peft up to 0.21 asks for a property by its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )
        yield
