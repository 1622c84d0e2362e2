"""What lm-eval wrote: results files, and the samples files of `--log_samples` beside them.

They are read where they lie, or from an archive of them (`archive.py`).
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ctxbench.core.lengths import length_name
from ctxbench.core.text_files import json_objects
from ctxbench.report.archive import NAME, read_archive
from ctxbench.report.result_checks import check_results, check_samples

_HARNESS_ARGUMENTS = ("method", "length", "max_length", "batch_size", "device", "cache")
"""Model arguments that the label says already, or that do not change an answer."""

_AGAIN = "Run the task again, or leave the file out."


@dataclass(frozen=True)
class Run:
    """One run of lm-eval.

    Attributes:
        path: of its results file; of one in an archive, as if it were unpacked there.
        date: as in the file names; later ones sort after earlier ones.
        content: of the results file.
        samples: records by task.
    """

    path: Path
    date: str
    content: dict[str, Any]
    samples: dict[str, Iterable[dict[str, Any]]]

    def records(self, task: str) -> list[dict[str, Any]]:
        """Return a task's records.

        Raises:
            ValueError: a line is damaged, or is no record.
        """
        try:
            return check_samples(self.samples[task])
        except ValueError as damage:
            if str(self.path.parent) in str(damage):
                raise
            raise ValueError(
                f"The samples of {task} beside {self.path} are damaged: {damage}. {_AGAIN}"
            ) from damage

    @property
    def _config(self) -> dict[str, Any]:
        return self.content.get("config") or {}

    @property
    def _ours(self) -> dict[str, Any]:
        """What `ctxext` notes about itself; empty for another model."""
        return self._config.get("ctxbench") or {}

    @property
    def model(self) -> str:
        """The model's name, with what else changes its answers."""
        arguments = self._config.get("model_args")
        if not isinstance(arguments, dict):  # lm-eval keeps what was typed, too
            arguments = dict(re.findall(r"([^=,]+)=([^,]*)", str(arguments or "")))
        given = {k: v for k, v in arguments.items() if k not in _HARNESS_ARGUMENTS}
        name = str(given.pop("pretrained", self.content.get("model_name") or "model"))
        options = self._ours.get("options") or {}
        others = [f"{k}={v}" for k, v in given.items() if k not in options]
        return " ".join([Path(name).name, *others])

    @property
    def method(self) -> str:
        """The method and whether it was trained; for another model than `ctxext`, its kind."""
        name = self._ours.get("method") or str(self._config.get("model") or "?")
        if not self._ours or name == "none":
            return name
        if self._ours.get("untrained"):
            return f"{name}, which needs training and had none"
        trained = self._ours.get("trained_length")
        return f"{name}, trained to {length_name(trained)}" if trained else f"{name}, frozen"

    @property
    def options(self) -> str:
        """The method's options."""
        return " ".join(f"{k}={v}" for k, v in (self._ours.get("options") or {}).items())

    @property
    def trained_length(self) -> int | None:
        """Tokens the weights were trained to, extension included; None where it is not noted."""
        return self._ours.get("trained_length") or self._ours.get("original_length")


@dataclass(frozen=True)
class ResultFolder:
    """A folder with runs of lm-eval: a cell of a study, or a loose one.

    Attributes:
        path: of the folder; of one in an archive, as if it were unpacked there.
        cell: content of cell.json, as far as there is one.
        runs: reads its runs, oldest first.
    """

    path: Path
    cell: dict[str, Any] | None
    runs: Callable[[], list[Run]]

    def newest_run(self) -> Run:
        """Return the newest run.

        Raises:
            FileNotFoundError: there is none.
        """
        if not (runs := self.runs()):
            raise FileNotFoundError(
                f"No results_*.json in {self.path}. Give the folder that lm_eval wrote with "
                "--output_path."
            )
        return runs[-1]


def result_folders(path: Path) -> Iterator[ResultFolder]:
    """Yield the folders of results in a folder (searched to any depth), an archive, a results file.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: a cell.json or an archive is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist. Give a folder that lm_eval wrote with --output_path, or "
            "results files."
        )
    if path.name.endswith(".jsonl.xz"):
        folders = read_archive(path)
        next(folders)
        yield from (archived_folder(found, path.parent) for found in folders)
        return
    if path.is_file():
        yield ResultFolder(path.parent, None, lambda: [read_run(path)])
        return
    archives = []
    for folder, names in sorted(_walk(path)):
        if any(name == "cell.json" or fnmatch(name, "results_*.json") for name in names):
            yield ResultFolder(folder, _read_cell(folder), lambda at=folder: _runs_in(at))
        archives += [folder / NAME] if NAME in names else []
    for archive in archives:
        yield from result_folders(archive)


def _walk(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield folders and the names in them, without what is being written (`.NAME.partial`)."""
    for folder, inner, names in os.walk(path):  # one that goes meanwhile is passed over
        inner[:] = [name for name in inner if not name.startswith(".")]
        yield Path(folder), names


def archived_folder(found: dict[str, Any], root: Path) -> ResultFolder:
    """Return a folder of an archive as it would be, unpacked in `root`."""
    path = root / found["folder"]
    runs = []
    for run in found["runs"]:
        file = path / f"results_{run['date']}.json"
        try:
            check_results(run["results"])
        except ValueError as damage:
            raise ValueError(
                f"{file} of the archive is no results file of lm_eval ({damage}). Make the archive "
                "again with `ctxbench report compact`."
            ) from damage
        runs.append(Run(file, run["date"], run["results"], run["samples"]))
    return ResultFolder(path, found.get("cell"), lambda: runs)


def _runs_in(folder: Path) -> list[Run]:
    return [read_run(file) for file in sorted(folder.glob("results_*.json"))]


def _read_cell(folder: Path) -> dict[str, Any] | None:
    file = folder / "cell.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:  # none, or a study is putting another in its place
        return None
    except (ValueError, RecursionError) as damage:
        raise ValueError(
            f"{file} is damaged ({damage}). Remove its folder: `ctxbench study` measures the cell "
            "again."
        ) from damage


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """Return the runs in folders, archives and results files, oldest first.

    Raises:
        FileNotFoundError: a path does not exist, or there is no results file.
        ValueError: a results file or an archive is damaged.
    """
    folders = (folder for path in paths for folder in result_folders(path))
    runs = {run.path: run for folder in folders for run in folder.runs()}
    if not runs:
        raise FileNotFoundError(
            f"No results_*.json in {', '.join(map(str, paths))}. Give the folder that lm_eval "
            "wrote with --output_path."
        )
    return sorted(runs.values(), key=lambda run: (run.date, run.path))


def read_run(path: Path) -> Run:
    """Return the run of a results file.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        content = check_results(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as damage:
        raise ValueError(
            f"{path} is not a results file of lm_eval ({damage}). Give results_DATE.json, or the "
            "folder it is in."
        ) from damage
    date = path.stem.removeprefix("results_")
    samples: dict[str, Iterable[dict[str, Any]]] = {
        file.name.removeprefix("samples_").removesuffix(f"_{date}.jsonl"): SamplesFile(file)
        for file in sorted(path.parent.glob(f"samples_*_{date}.jsonl"))
    }
    return Run(path, date, content, samples)


@dataclass(frozen=True)
class SamplesFile:
    """The records of a samples file, read each time they are asked for.

    Raises:
        ValueError: a line is damaged.
    """

    path: Path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with open(self.path, "rb") as lines:
            yield from (sample for _, sample in json_objects(lines, self.path, _AGAIN))
