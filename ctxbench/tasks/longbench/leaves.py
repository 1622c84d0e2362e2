"""LongBench's task files: data set x length, and the groups over them."""

from collections.abc import Sequence

from ctxbench.core.longbench_sets import ALL, CATEGORIES, PAPER, E
from ctxbench.tasks.leaf_files import Leaves, base_file, group, ladder
from ctxbench.tasks.longbench.prompts import load_prompt

LENGTHS = (4096, 16384, 32768)  # windows of the official model2maxlen.json
E_NAMES = tuple(f"{name}_e" for name in E)
_METRICS = ("score", "score_lceg", "truncated", "past_window")
"""A group's are plain means over its data sets, as in the paper."""


def leaves(numbers: Sequence[int] | None) -> Leaves:
    """Return the content of every file by its name; see `leaf_files`."""
    files: Leaves = {}
    for suffix, length in ladder(LENGTHS, numbers).items():

        def names(members: Sequence[str], suffix: str = suffix) -> list[str]:
            return [f"longbench_{suffix}_{name}" for name in members]

        for name in ALL + E_NAMES:
            files[f"longbench_{suffix}_{name}"] = {
                "include": base_file("longbench", "_e" if name.endswith("_e") else "_base"),
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
        groups = {f"longbench_{suffix}": PAPER, f"longbench21_{suffix}": ALL}
        groups[f"longbench_e_{suffix}"] = E_NAMES
        for category, members in CATEGORIES.items():
            groups[f"longbench21_{suffix}_{category}"] = members
            groups[f"longbench_{suffix}_{category}"] = tuple(n for n in members if n in PAPER)
        files |= {name: group(name, names(members), _METRICS) for name, members in groups.items()}
    return files
