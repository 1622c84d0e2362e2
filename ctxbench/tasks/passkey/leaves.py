"""The passkey's task files."""

from collections.abc import Sequence

from ctxbench.core.lengths import LADDER
from ctxbench.tasks.leaf_files import Leaves, base_file
from ctxbench.tasks.passkey.dataset import leaf_name


def leaves(numbers: Sequence[int] | None) -> Leaves:
    """Return the content of every file by its name; see `leaf_files`."""
    return {
        leaf_name(length): {
            "include": base_file("passkey", "_passkey"),
            "task": leaf_name(length),
            "dataset_kwargs": {"ctx_length": length},
        }
        for length in (LADDER if numbers is None else numbers)
    }
