"""Where things are: the bundled model, local data, the cache.

Imports nothing of ours, so that every other part may import it.
"""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

BUNDLED_MODELS = {"mini": PACKAGE / "_assets" / "mini"}


def resolve_model(name_or_path: str) -> str:
    """Return the folder of a bundled model for its name (`mini`), anything else unchanged.

    A folder of your own called `mini` is reached as `./mini`.
    """
    bundled = BUNDLED_MODELS.get(str(name_or_path))
    return str(bundled) if bundled else str(name_or_path)


def cache_dir() -> Path:
    """Return the folder for what can be made again (`CTXBENCH_CACHE`, else the user's cache)."""
    if explicit := os.environ.get("CTXBENCH_CACHE"):
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser() / "ctxbench"


def data_dirs(data_dir: str | os.PathLike | None = None) -> list[Path]:
    """Return the folders searched for local data, first wins.

    Args:
        data_dir: a folder given for this call (task metadata `data_dir`), searched first.

    `CTXBENCH_DATA` may name several folders, separated as in `PATH`.
    """
    given = [str(data_dir)] if data_dir else []
    given += [part for part in os.environ.get("CTXBENCH_DATA", "").split(os.pathsep) if part]
    return [Path(part).expanduser() for part in given]


def fetched_dir() -> Path:
    """Return where `ctxbench data fetch` puts files where `CTXBENCH_DATA` names no folder."""
    return cache_dir() / "data"


def find_data(*names: str, data_dir: str | os.PathLike | None = None) -> Path | None:
    """Return the first existing file or folder called one of `names` in the data folders.

    Where `ctxbench data fetch` puts what it fetches is searched last.
    """
    for folder in [*data_dirs(data_dir), fetched_dir()]:
        for name in names:
            if (folder / name).exists():
                return folder / name
    return None


def require_data(*names: str, get: str, data_dir: str | os.PathLike | None = None) -> Path:
    """Return what `find_data` finds.

    Args:
        names: accepted file or folder names, in order of preference.
        get: one sentence that says how to get the data.
        data_dir: searched before `CTXBENCH_DATA`.

    Raises:
        FileNotFoundError: naming what was looked for, where, and how to get it.
    """
    found = find_data(*names, data_dir=data_dir)
    if found is None:
        searched = ", ".join(map(str, [*data_dirs(data_dir), fetched_dir()]))
        raise FileNotFoundError(
            f"Local data {' or '.join(names)} not found; searched: {searched}. {get} "
            "Or put it in a folder and set CTXBENCH_DATA to that folder, or give metadata data_dir."
        )
    return found
