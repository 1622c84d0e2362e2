"""Write the task files of LongBench: data set x length, and the groups over them."""

from pathlib import Path

from ctxbench.core.longbench_sets import ALL, CATEGORIES, PAPER, E
from ctxbench.tasks import leaf_files
from ctxbench.tasks.longbench.prompts import load_prompt

FOLDER = Path(__file__).parent / "leaves"
LENGTHS = {"4k": 4096, "16k": 16384, "32k": 32768}
E_NAMES = tuple(f"{name}_e" for name in E)


def leaves() -> dict[str, dict]:
    """Return the content of every file by its name."""
    files: dict[str, dict] = {}
    for suffix, length in LENGTHS.items():
        for name in ALL + E_NAMES:
            files[f"longbench_{suffix}_{name}"] = {
                "include": "../_e.yaml" if name.endswith("_e") else "../_base.yaml",
                "task": f"longbench_{suffix}_{name}",
                "task_alias": name,
                "dataset_kwargs": {"ctx_dataset": name, "ctx_length": length},
                "generation_kwargs": {
                    # No stop text: the official code cuts when it scores, and a leading newline,
                    # which it strips, would end the answer before it began.
                    "until": [],
                    "max_gen_toks": load_prompt(
                        name.removesuffix("_e"),
                        "unchecked",  # checked when prompts are made
                    ).max_gen_toks,
                    "do_sample": False,
                },
            }
        files[f"longbench_{suffix}"] = _group(f"longbench_{suffix}", suffix, PAPER)
        files[f"longbench21_{suffix}"] = _group(f"longbench21_{suffix}", suffix, ALL)
        files[f"longbench_e_{suffix}"] = _group(f"longbench_e_{suffix}", suffix, E_NAMES)
        for category, names in CATEGORIES.items():
            for family, members in (("longbench", PAPER), ("longbench21", ALL)):
                group = f"{family}_{suffix}_{category}"
                files[group] = _group(group, suffix, tuple(n for n in names if n in members))
    return files


def _group(group: str, suffix: str, names: tuple[str, ...]) -> dict:
    """Return a group whose scores are the plain means over its data sets, as in the paper."""
    return {
        "group": group,
        "task": [f"longbench_{suffix}_{name}" for name in names],
        "aggregate_metric_list": [
            {"metric": metric, "aggregation": "mean", "weight_by_size": False}
            for metric in ("score", "score_lceg", "truncated", "past_window")
        ],
        "metadata": {"version": 1.0},
    }


if __name__ == "__main__":
    leaf_files.write(FOLDER, leaves())
