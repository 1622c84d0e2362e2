"""The needle's task files: ours at any length, the LCEG study's at the lengths of its grid."""

from collections.abc import Sequence

from ctxbench.core.lengths import LADDER
from ctxbench.tasks.leaf_files import Leaves, base_file, group
from ctxbench.tasks.niah.dataset import LCEG_LENGTHS, leaf_name

_METRICS = ("score", "exact", "rouge1")


def leaves(numbers: Sequence[int] | None) -> Leaves:
    """Return the content of every file by its name; see `leaf_files`."""
    files = _grid("niah", "_niah", LADDER if numbers is None else numbers)
    if numbers is None:
        study = _grid("niah_lceg", "_lceg", LCEG_LENGTHS)
        files |= {**study, "niah_lceg": group("niah_lceg", study, _METRICS)}
    return files


def _grid(grid: str, base: str, lengths: Sequence[int]) -> Leaves:
    return {
        leaf_name(grid, length): {
            "include": base_file("niah", base),
            "task": leaf_name(grid, length),
            "dataset_kwargs": {"ctx_grid": grid, "ctx_length": length},
        }
        for length in lengths
    }
