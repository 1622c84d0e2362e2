"""Write the task files of the perplexity family: source x protocol x length, and their groups."""

from pathlib import Path

from ctxbench.tasks import leaf_files

FOLDER = Path(__file__).parent / "leaves"
SOURCES = ("pg19", "proof_pile", "text")
PROTOCOLS = {
    "overlap": "ppl",
    "sliding": "ppl_sliding",
    "prefix": "ppl_prefix",
    "lceg_landmark": "ppl_lceg_landmark",
}
CONSTANTS = {"lceg_landmark": {"ctx_chunk": 512}}
"""Protocol -> further constants of its leaves."""
LENGTHS = {f"{k}k": k * 1024 for k in (2, 4, 8, 16, 32, 64)}


def leaves() -> dict[str, dict]:
    """Return the content of every file by its name."""
    files: dict[str, dict] = {}
    for source in SOURCES:
        for protocol, infix in PROTOCOLS.items():
            family = f"{source}_{infix}"
            files |= {
                f"{family}_{name}": {
                    "include": f"../_{protocol}.yaml",
                    "task": f"{family}_{name}",
                    "dataset_kwargs": {
                        "ctx_source": source,
                        "ctx_protocol": protocol,
                        "ctx_length": length,
                        **CONSTANTS.get(protocol, {}),
                    },
                }
                for name, length in LENGTHS.items()
            }
            # A group without an average: a mean of perplexities at several lengths means nothing.
            files[family] = {"group": family, "task": [f"{family}_{name}" for name in LENGTHS]}
    return files


if __name__ == "__main__":
    leaf_files.write(FOLDER, leaves())
