"""Write RULER's task files: `python -m ctxbench.tasks.ruler.leaves`."""

from pathlib import Path

from ctxbench.tasks import leaf_files
from ctxbench.tasks.ruler.build import leaf_name
from ctxbench.tasks.ruler.family import RulerSettings
from ctxbench.tasks.ruler.subtasks import LENGTHS, SUBTASKS

FOLDER = Path(__file__).parent / "leaves"


def _group(name: str, tasks: list[str]) -> dict:
    mean = {"aggregation": "mean", "weight_by_size": False}
    return {
        "group": name,
        "task": tasks,
        "aggregate_metric_list": [{"metric": "score", **mean}, {"metric": "null", **mean}],
        "metadata": {"version": 1.0},
    }


def leaves() -> dict[str, dict]:
    """Return the content of every file by its name."""
    files: dict[str, dict] = {}
    categories = dict.fromkeys(task.category for task in SUBTASKS.values())
    for key, length in LENGTHS.items():
        for name, subtask in SUBTASKS.items():
            tokens = subtask.make(RulerSettings(length)).new_tokens
            files[leaf_name(name, length)] = {
                "include": "../_ruler.yaml",
                "task": leaf_name(name, length),
                "generation_kwargs": {"until": [], "max_gen_toks": tokens, "do_sample": False},
                "dataset_kwargs": {"ctx_subtask": name, "ctx_length": length},
            }
        for category in categories:
            members = [n for n, task in SUBTASKS.items() if task.category == category]
            group = f"ruler_{key}_{category}"
            files[group] = _group(group, [leaf_name(n, length) for n in members])
        files[f"ruler_{key}"] = _group(f"ruler_{key}", [f"ruler_{key}_{c}" for c in categories])
    paper = [f"ruler_{key}" for key, length in LENGTHS.items() if length >= 4096]
    files["ruler_all"] = _group("ruler_all", paper)
    return files


if __name__ == "__main__":
    leaf_files.write(FOLDER, leaves())
