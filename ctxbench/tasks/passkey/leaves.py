"""Write the passkey's task files: `python -m ctxbench.tasks.passkey.leaves`."""

from pathlib import Path

from ctxbench.tasks import leaf_files
from ctxbench.tasks.needle_grid import LENGTHS
from ctxbench.tasks.passkey.build import leaf_name

FOLDER = Path(__file__).parent / "leaves"


def leaves() -> dict[str, dict]:
    """Return the content of every file by its name."""
    return {
        leaf_name(length): {
            "include": "../_passkey.yaml",
            "task": leaf_name(length),
            "dataset_kwargs": {"ctx_length": length},
        }
        for length in LENGTHS.values()
    }


if __name__ == "__main__":
    leaf_files.write(FOLDER, leaves())
