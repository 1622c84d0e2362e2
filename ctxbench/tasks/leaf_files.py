"""Task files that differ in a few constants: written by the family's `leaves.py`, kept in the repo.

`python -m ctxbench.tasks.FAMILY.leaves` writes them anew; a test compares them.
"""

from pathlib import Path

import yaml


def render(content: dict) -> str:
    """Return the text of a task file."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def write(folder: Path, files: dict[str, dict]) -> None:
    """Make the folder hold exactly these files (name without `.yaml`: content)."""
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("*.yaml"):
        if stale.stem not in files:
            stale.unlink()
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(render(content), encoding="utf-8")


def differences(folder: Path, files: dict[str, dict]) -> list[str]:
    """Return the names of files that are missing, superfluous or not as they would be written."""
    found = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.yaml")}
    wanted = {name: render(content) for name, content in files.items()}
    return sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
