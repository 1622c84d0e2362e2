"""Write the task files of the mini family: `python -m ctxbench.tasks.mini.leaves`."""

from pathlib import Path

from ctxbench.tasks import leaf_files

FOLDER = Path(__file__).parent / "leaves"
LENGTHS = {"128": 128, "256": 256, "512": 512, "1k": 1024, "2k": 2048, "4k": 4096}
FAMILIES = {
    "mini_needle": ("needle", {"ctx_distractors": 3}, 128),
    "mini_needle_hard": ("needle", {"ctx_distractors": 15}, 256),
    "mini_multiquery": ("multiquery", {}, 256),
    "mini_ppl": ("ppl", {}, 128),
    "mini_windows": ("windows", {}, 128),
}
"""Name: (base file, constants, shortest length that fits)."""


def leaves() -> dict[str, dict]:
    """Return the content of every file by its name."""
    return {
        f"{family}_{name}": {
            "include": f"../_{base}.yaml",
            "task": f"{family}_{name}",
            "dataset_kwargs": {"ctx_length": length, **constants},
        }
        for family, (base, constants, shortest) in FAMILIES.items()
        for name, length in LENGTHS.items()
        if length >= shortest
    }


if __name__ == "__main__":
    leaf_files.write(FOLDER, leaves())
