"""What is used of Hugging Face datasets beyond what it promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxbench.core.compat.foreign import Library, Mention

if TYPE_CHECKING:
    from datasets import Dataset

DATASETS = Library("datasets", "3.0 to 5.2", "datasets>=3,<6")

_FINGERPRINT = Mention(
    DATASETS,
    "datasets",
    "Dataset.__init__",
    "tell whether tokens in the cache are of the same data",
    "_fingerprint",
)
ENTRIES = (_FINGERPRINT,)


def fingerprint(dataset: Dataset) -> str:
    """Return what changes when the rows of a data set change."""
    return _FINGERPRINT.of(dataset)
