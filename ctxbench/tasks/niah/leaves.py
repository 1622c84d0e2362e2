"""Write the needle's task files: `python -m ctxbench.tasks.niah.leaves`."""

from pathlib import Path

from ctxbench.tasks import leaf_files
from ctxbench.tasks.niah.build import LENGTHS, leaf_name

FOLDER = Path(__file__).parent / "leaves"
_BASES = {"niah": "../_niah.yaml", "niah_lceg": "../_lceg.yaml"}


def leaves() -> dict[str, dict]:
    """Return the content of every file by its name."""
    files: dict[str, dict] = {
        leaf_name(grid, length): {
            "include": _BASES[grid],
            "task": leaf_name(grid, length),
            "dataset_kwargs": {"ctx_grid": grid, "ctx_length": length},
        }
        for grid, lengths in LENGTHS.items()
        for length in lengths
    }
    metrics = ("score", "exact", "rouge1")
    files["niah_lceg"] = {
        "group": "niah_lceg",
        "task": [leaf_name("niah_lceg", length) for length in LENGTHS["niah_lceg"]],
        "aggregate_metric_list": [
            {"metric": name, "aggregation": "mean", "weight_by_size": False} for name in metrics
        ],
        "metadata": {"version": 1.0},
    }
    return files


if __name__ == "__main__":
    leaf_files.write(FOLDER, leaves())
