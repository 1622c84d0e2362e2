"""Write the task files of many-shot classification, and a group per curve."""

from pathlib import Path

from ctxbench.tasks import leaf_files

FOLDER = Path(__file__).parent / "leaves"
SHOTS = (1, 5, 10, 25, 50, 75, 100, 200, 300, 400, 500, 625, 750, 875, 1000)
MINI_SHOTS = (4, 8, 16, 32, 64, 128)


def leaves() -> dict[str, dict]:
    """Return the content of every file by its name."""
    files = _curve("mini_manyshot", "", "_labels", "mini", MINI_SHOTS)
    for labels in ("coarse", "fine"):
        files |= _curve(f"trec_{labels}", "", "_labels", labels, SHOTS)
        files |= _curve(f"trec_{labels}", "_lceg", "_lceg", labels, SHOTS)
    return files


def _curve(family: str, suffix: str, base: str, labels: str, shots: tuple[int, ...]) -> dict:
    """Return the leaves of a curve and its group, which has no average: the curve is the result."""
    files: dict[str, dict] = {
        f"{family}_{number}shot{suffix}": {
            "include": f"../{base}.yaml",
            "task": f"{family}_{number}shot{suffix}",
            "dataset_kwargs": {"ctx_labels": labels, "ctx_shots": number},
        }
        for number in shots
    }
    files[f"{family}{suffix}"] = {"group": f"{family}{suffix}", "task": list(files)}
    return files


if __name__ == "__main__":
    leaf_files.write(FOLDER, leaves())
