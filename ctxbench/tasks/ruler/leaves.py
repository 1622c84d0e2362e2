"""RULER's task files: subtask x length, and groups by category and length."""

from collections.abc import Sequence

from ctxbench.core.lengths import LADDER
from ctxbench.tasks.leaf_files import Leaves, base_file, group, ladder
from ctxbench.tasks.ruler.dataset import leaf_name
from ctxbench.tasks.ruler.subtasks import CATEGORIES, SUBTASKS

_METRICS = ("score", "null")


def leaves(numbers: Sequence[int] | None) -> Leaves:
    """Return the content of every file by its name; see `leaf_files`."""
    files: Leaves = {}
    for key, length in ladder(LADDER, numbers).items():
        for name, subtask in SUBTASKS.items():
            tokens = subtask.family.new_tokens
            files[leaf_name(name, length)] = {
                "include": base_file("ruler", "_ruler"),
                "task": leaf_name(name, length),
                "generation_kwargs": {"until": [], "max_gen_toks": tokens, "do_sample": False},
                "dataset_kwargs": {"ctx_subtask": name, "ctx_length": length},
            }
        for category, members in CATEGORIES.items():
            name = f"ruler_{key}_{category}"
            files[name] = group(name, [leaf_name(n, length) for n in members], _METRICS)
        by_category = [f"ruler_{key}_{category}" for category in CATEGORIES]
        files[f"ruler_{key}"] = group(f"ruler_{key}", by_category, _METRICS)
    if numbers is None:
        paper = [f"ruler_{key}" for key, length in ladder(LADDER, None).items() if length >= 4096]
        files["ruler_all"] = group("ruler_all", paper, _METRICS)
    return files
