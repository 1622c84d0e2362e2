"""Task files made in the cache beside the same files kept in a folder, as block YAML.

    python benchmarks/task_files.py [--runs 7]

Times lm-eval's index over both (the kept ones include their base by a relative path), and the list
of names: from the manifest, beside reading every file for it. The cache is warm, as in every use
but the first; what the first costs is printed too.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from claims import claim
from lm_eval.tasks import TaskManager

from ctxbench.core.assets import PACKAGE
from ctxbench.tasks import leaf_files


def timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def keep(folder: Path) -> None:
    """Write the task files as they would be kept in a repository."""
    for family, leaves in leaf_files.all_leaves().items():
        shutil.copytree(PACKAGE / "tasks" / family, folder / family)
        (folder / family / "leaves").mkdir()
        for name, content in leaves.items():
            if "include" in content:
                content = {**content, "include": f"../{Path(content['include']).name}"}
            text = yaml.safe_dump(content, sort_keys=False, width=100)
            (folder / family / "leaves" / f"{name}.yaml").write_text(text, encoding="utf-8")


def names(folder: Path) -> set[str]:
    """Read the names out of every file."""
    found = set()
    for file in folder.rglob("*.yaml"):
        if not file.name.startswith("_"):
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            found.add(content.get("group") or content["task"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = range(parser.parse_args().runs)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CTXBENCH_CACHE"] = f"{folder}/cache"
        print(f"made for the first time in {timed(leaf_files.tasks_path):.2f} s")
        kept = Path(folder, "kept")
        keep(kept)

        def index(where: Callable[[], Path]) -> float:
            leaf_files._folder.cache_clear()
            return timed(lambda: TaskManager(include_path=str(where()), include_defaults=False))

        def listing() -> set[str]:
            leaf_files._folder.cache_clear()
            leaf_files._families.cache_clear()
            return {name for leaves in leaf_files.all_leaves().values() for name in leaves}

        assert listing() == names(kept)
        indexed = [(index(leaf_files.tasks_path), index(lambda: kept)) for _ in runs]
        listed = [(timed(listing), timed(lambda: names(kept))) for _ in runs]
    for what, pairs in (("index of our tasks", indexed), ("list of our tasks", listed)):
        ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{what}: {1000 * ours:.0f} ms, kept {1000 * theirs:.0f} ms")
        ratio = statistics.median(a / b for a, b in pairs)
        claim(f"{what}, made in the cache", ratio, "files kept in the package", at_most=1)


if __name__ == "__main__":
    main()
