"""The task files of many-shot classification, and a group per curve."""

from collections.abc import Sequence

from ctxbench.tasks.leaf_files import Leaves, base_file, group

SHOTS = (1, 5, 10, 25, 50, 75, 100, 200, 300, 400, 500, 625, 750, 875, 1000)
MINI_SHOTS = (4, 8, 16, 32, 64, 128)


def leaves(numbers: Sequence[int] | None) -> Leaves:
    """Return the content of every file by its name; `numbers` are shots."""
    files = _curve("mini_manyshot", "", "_labels", "mini", MINI_SHOTS, numbers)
    for labels in ("coarse", "fine"):
        files |= _curve(f"trec_{labels}", "", "_labels", labels, SHOTS, numbers)
        files |= _curve(f"trec_{labels}", "_lceg", "_lceg", labels, SHOTS, numbers)
    return files


def _curve(
    family: str,
    suffix: str,
    base: str,
    labels: str,
    listed: Sequence[int],
    numbers: Sequence[int] | None,
) -> Leaves:
    """Return the leaves of a curve and its group, which has no average: the curve is the result."""
    files: Leaves = {
        f"{family}_{number}shot{suffix}": {
            "include": base_file("manyshot", base),
            "task": f"{family}_{number}shot{suffix}",
            "dataset_kwargs": {"ctx_labels": labels, "ctx_shots": number},
        }
        for number in (listed if numbers is None else numbers)
    }
    if numbers is None:
        files[f"{family}{suffix}"] = group(f"{family}{suffix}", list(files))
    return files
