"""The mini family's task files."""

from collections.abc import Sequence

from ctxbench.core.lengths import LADDER
from ctxbench.tasks.leaf_files import Leaves, base_file, ladder

LENGTHS = (128, 256, 512, *LADDER[:3])  # what the bundled model can do begins below the ladder
FAMILIES = {
    "mini_needle": ("needle", {"ctx_distractors": 3}, 128),
    "mini_needle_hard": ("needle", {"ctx_distractors": 15}, 256),
    "mini_multiquery": ("multiquery", {}, 256),
    "mini_ppl": ("ppl", {}, 128),
    "mini_windows": ("windows", {}, 128),
}
"""Name: (base file, constants, shortest length that fits)."""


def leaves(numbers: Sequence[int] | None) -> Leaves:
    """Return the content of every file by its name; see `leaf_files`."""
    return {
        f"{family}_{name}": {
            "include": base_file("mini", f"_{base}"),
            "task": f"{family}_{name}",
            "dataset_kwargs": {"ctx_length": length, **constants},
        }
        for family, (base, constants, shortest) in FAMILIES.items()
        for name, length in ladder(LENGTHS, numbers).items()
        if length >= shortest
    }
