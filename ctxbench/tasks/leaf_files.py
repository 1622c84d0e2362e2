"""lm-eval's task files that differ in a few constants: made at first use, into the cache.

A family's `leaves(numbers)` returns the content of its files, one per subtask and length (or number
of shots), which include the hand-written YAML of the family. A folder of files is made whole under
another name and renamed, so that several processes may make it at once; its name depends on
everything that decides its content. Where the cache cannot be written, a folder is made for this
process alone.
"""

from __future__ import annotations

import atexit
import fnmatch
import hashlib
import importlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

from ctxbench import __version__
from ctxbench.core.assets import PACKAGE, cache_dir
from ctxbench.core.lengths import length_name, parse_length

log = logging.getLogger(__name__)

_FOLDER = PACKAGE / "tasks"
FAMILIES = tuple(sorted(file.parent.name for file in _FOLDER.glob("*/leaves.py")))
"""Folders of ctxbench/tasks."""
Leaves = dict[str, dict[str, Any]]
"""Content of task files by the name of the task or group."""

_MANIFEST = "manifest.json"  # content and bytes of every file, so that a damaged one is found
_NUMBER = re.compile(r"_(\d+[km]?)(?:shot)?(?=_|\*|$)")


def tasks_path() -> Path:
    """Return the folder to give to `lm_eval --include_path`: the lengths of each family.

    `CTXBENCH_LENGTHS` (`24k,256k`) adds lengths to every family that has any.
    """
    return _folder(extra_lengths())


def package_spec(name: str) -> ModuleSpec | None:
    """Return where Python finds the folder of `tasks_path` as a package of this name."""
    folder = tasks_path()
    return spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )


def extra_lengths() -> tuple[int, ...]:
    """Return the lengths that `CTXBENCH_LENGTHS` adds, tokens.

    Raises:
        ValueError: one is no length.
    """
    given = os.environ.get("CTXBENCH_LENGTHS", "")
    return tuple(sorted({parse_length(text) for text in given.split(",") if text.strip()}))


def all_leaves() -> dict[str, Leaves]:
    """Return family -> its tasks and groups at its own lengths and those asked for."""
    return _families(tasks_path())


def is_task(name: str) -> bool:
    """Return whether there is a task or group of this name, at a listed length or another."""
    return any(name in leaves for leaves in all_leaves().values()) or bool(unlisted(name))


def unlisted(pattern: str) -> dict[str, Leaves]:
    """Return family -> leaves at the length (or shots) in a name or pattern that is not listed.

    Empty where the name has no number, or no family has tasks of such a name.
    """
    numbers = tuple(parse_length(n) for n in _NUMBER.findall(pattern) if n.strip("0km"))
    found = {family: _leaves(family, numbers) for family in FAMILIES} if numbers else {}
    return {family: leaves for family, leaves in found.items() if fnmatch.filter(leaves, pattern)}


def unlisted_folder(pattern: str) -> Path | None:
    """Return a folder with the task files of `unlisted`, None where there are none."""
    families = unlisted(pattern)
    return _cached("unlisted", json.dumps(families), lambda: families) if families else None


def constants_of(name: str) -> dict[str, dict[str, Any]]:
    """Return leaf -> its `dataset_kwargs`, of a task or of all in a group; empty if unknown."""
    found = next((leaves for leaves in all_leaves().values() if name in leaves), None)
    found = found or next(iter(unlisted(name).values()), {})
    if "group" not in found.get(name, {}):
        return {name: found[name]["dataset_kwargs"]} if name in found else {}
    members = [constants_of(member) for member in found[name]["task"]]
    return {leaf: constants for each in members for leaf, constants in each.items()}


def group(name: str, tasks: Iterable[str], metrics: Iterable[str] = ()) -> dict[str, Any]:
    """Return a group; each metric is its plain mean over the tasks, whatever their sizes."""
    content: dict[str, Any] = {"group": name, "task": list(tasks)}
    if metrics := list(metrics):
        content["aggregate_metric_list"] = [
            {"metric": metric, "aggregation": "mean", "weight_by_size": False} for metric in metrics
        ]
        content["metadata"] = {"version": 1.0}
    return content


def ladder(listed: Iterable[int], numbers: Sequence[int] | None) -> dict[str, int]:
    """Return name -> length of the lengths asked for, by default those listed."""
    return {length_name(n): n for n in (sorted({*listed}) if numbers is None else numbers)}


def base_file(family: str, name: str) -> str:
    """Return the path of a family's hand-written YAML, as leaves include it."""
    return str(_FOLDER / family / f"{name}.yaml")


@lru_cache(maxsize=64)
def _leaves(family: str, numbers: tuple[int, ...] | None) -> Leaves:
    return importlib.import_module(f"ctxbench.tasks.{family}.leaves").leaves(numbers)


def _listed(family: str, extra: tuple[int, ...]) -> Leaves:
    more = _leaves(family, extra) if extra and family != "manyshot" else {}  # shots, not lengths
    return {**more, **_leaves(family, None)}


# ------------------------------------------------------------------------ files


@cache
def _folder(extra: tuple[int, ...]) -> Path:
    return _cached("tasks", repr(extra), lambda: {f: _listed(f, extra) for f in FAMILIES})


def _cached(kind: str, what: str, make: Callable[[], dict[str, Leaves]]) -> Path:
    """Return a whole folder of task files, made now unless the cache has it."""
    key = hashlib.sha256(f"{what}\n{_sources()}".encode()).hexdigest()[:16]
    folder = cache_dir() / "tasks" / f"{kind}-{__version__}-{key}"
    if _is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        log.warning(
            "Task files cannot be kept in %s (%s); they are made for this process alone. Set "
            "CTXBENCH_CACHE to a folder you may write to.", folder.parent, error.strerror,
        )  # fmt: skip
        return _own_folder(make())
    try:
        _write(building, make())
        return _commit(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _commit(building: Path, folder: Path) -> Path:
    """Give a folder its final name; another process may have done so, or left a damaged one."""
    for _ in range(10):
        try:
            building.rename(folder)
        except OSError:
            if _is_whole(folder):
                return folder
            damaged = Path(tempfile.mkdtemp(prefix=".damaged.", dir=folder.parent))
            with suppress(FileNotFoundError):  # another process may have moved it
                folder.rename(damaged / folder.name)
            shutil.rmtree(damaged, ignore_errors=True)
        else:
            return folder
    raise OSError(
        f"The task files in {folder} are damaged and cannot be replaced. Remove that folder."
    )


@cache
def _sources() -> str:
    """Return what decides the content of task files: our code and the installed harness."""
    from importlib.metadata import version

    code = [*_FOLDER.rglob("*.py"), *(PACKAGE / "core").glob("*.py")]
    files = [*code, *_FOLDER.glob("*/README.md")]
    stats = [(str(file), stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat())]
    return f"{version('lm-eval')} {sorted(stats)}"


def _is_whole(folder: Path) -> bool:
    try:
        sizes = _manifest(folder)["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))


@lru_cache(maxsize=8)
def _families(folder: Path) -> dict[str, Leaves]:
    return _manifest(folder)["families"]


def _write(folder: Path, families: dict[str, Leaves]) -> None:
    sizes = {}
    for family, leaves in families.items():
        (folder / family).mkdir()
        readme = (_FOLDER / family / "README.md").read_bytes()
        sizes[f"{family}/README.md"] = (folder / family / "README.md").write_bytes(readme)
        for name, content in leaves.items():
            # a value in JSON is one in YAML, and written a hundred times faster
            text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in content.items())
            sizes[f"{family}/{name}.yaml"] = (folder / family / f"{name}.yaml").write_bytes(
                text.encode()
            )
    (folder / "__init__.py").write_text('"""Task files of ctxbench."""\n', encoding="utf-8")
    folder.chmod(0o755)
    content = {"sizes": sizes, "families": families}
    (folder / _MANIFEST).write_text(json.dumps(content), encoding="utf-8")


def _own_folder(families: dict[str, Leaves]) -> Path:
    """Return a folder that goes with this process."""
    folder, owner = Path(tempfile.mkdtemp(prefix="ctxbench-tasks-")), os.getpid()
    _write(folder, families)
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))
    return folder
