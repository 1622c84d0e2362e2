"""What a family hands to lm-eval: documents, and what they share.

What every log line of a sample is to repeat is `common`; what is too large for that is `shared`,
which the task's class (`class_task`) gets.
"""

from collections.abc import Iterable, Mapping
from typing import Any


def as_dataset(
    rows: Iterable[Mapping[str, Any]],
    *,
    common: Mapping[str, Any] | None = None,
    shared: Any = None,
    about: str | None = None,
) -> dict[str, Any]:
    """Return documents for lm-eval's `custom_dataset`.

    Args:
        rows: one per document.
        common: columns that every document has.
        shared: what they have in common besides; a task without a class of its own has none.
        about: what the data say of themselves, for `ctxbench plan`.
    """
    import datasets

    info = datasets.DatasetInfo(description=about) if about else None
    documents = datasets.Dataset.from_list([{**(common or {}), **row} for row in rows], info=info)
    return {"test": documents} if shared is None else {"test": documents, "shared": shared}
