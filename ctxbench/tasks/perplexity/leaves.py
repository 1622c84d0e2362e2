"""The perplexity family's task files: source x protocol x length, and their groups."""

from collections.abc import Sequence

from ctxbench.core.lengths import LADDER
from ctxbench.tasks.leaf_files import Leaves, base_file, group, ladder

SOURCES = ("pg19", "proof_pile", "text")
PROTOCOLS = {
    "overlap": "ppl",
    "sliding": "ppl_sliding",
    "prefix": "ppl_prefix",
    "lceg_landmark": "ppl_lceg_landmark",
}
CONSTANTS = {"lceg_landmark": {"ctx_chunk": 512}}
"""Protocol -> further constants of its leaves."""
LENGTHS = LADDER[1:-1]  # 2k to 64k, the paper's windows


def leaves(numbers: Sequence[int] | None) -> Leaves:
    """Return the content of every file by its name; see `leaf_files`."""
    files: Leaves = {}
    for source in SOURCES:
        for protocol, infix in PROTOCOLS.items():
            family = f"{source}_{infix}"
            curve = {
                f"{family}_{name}": {
                    "include": base_file("perplexity", f"_{protocol}"),
                    "task": f"{family}_{name}",
                    "dataset_kwargs": {
                        "ctx_source": source,
                        "ctx_protocol": protocol,
                        "ctx_length": length,
                        **CONSTANTS.get(protocol, {}),
                    },
                }
                for name, length in ladder(LENGTHS, numbers).items()
            }
            files |= curve
            if numbers is None:  # no average: a mean of perplexities at several lengths is nothing
                files[family] = group(family, curve)
    return files
