"""What lm-eval wrote: results files, and the samples files of `--log_samples` beside them."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxbench.core.lengths import length_name

_HARNESS_ARGUMENTS = ("method", "length", "max_length", "batch_size", "device", "cache")
"""Model arguments that the label says already, or that do not change an answer."""


@dataclass(frozen=True)
class Run:
    """One run of lm-eval.

    Attributes:
        path: of its results file.
        date: as in the file names; later ones sort after earlier ones.
        content: of the results file.
        samples: samples file by task.
    """

    path: Path
    date: str
    content: dict[str, Any]
    samples: dict[str, Path]

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
        options = self._ours.get("options", {})
        others = [f"{k}={v}" for k, v in given.items() if k not in options]
        return " ".join([Path(name).name, *others])

    @property
    def method(self) -> str:
        """The method and whether it was trained; for another model than `ctxext`, its kind."""
        name = self._ours.get("method") or str(self._config.get("model") or "?")
        if not self._ours or name == "none":
            return name
        trained = self._ours.get("trained_length")
        return f"{name}, trained to {length_name(trained)}" if trained else f"{name}, frozen"

    @property
    def options(self) -> str:
        """The method's options."""
        return " ".join(f"{k}={v}" for k, v in self._ours.get("options", {}).items())

    @property
    def trained_length(self) -> int | None:
        """Tokens the weights were trained to, extension included; None where it is not noted."""
        return self._ours.get("trained_length") or self._ours.get("original_length")


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """Return the runs in folders (searched to any depth) and results files, oldest first.

    Raises:
        FileNotFoundError: a path does not exist, or there is no results file.
        ValueError: a results file is damaged.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(
                f"{path} does not exist. Give a folder that lm_eval wrote with --output_path, or "
                "results files."
            )
        files += path.rglob("results_*.json") if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(
            f"No results_*.json in {', '.join(map(str, paths))}. Give the folder that lm_eval "
            "wrote with --output_path."
        )
    return sorted((read_run(file) for file in set(files)), key=lambda run: (run.date, run.path))


def read_run(path: Path) -> Run:
    """Return the run of a results file.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["results"]
    except (ValueError, KeyError, TypeError) as damage:
        raise ValueError(
            f"{path} is not a results file of lm_eval ({type(damage).__name__}: {damage}). Give "
            "results_DATE.json, or the folder it is in."
        ) from damage
    date = path.stem.removeprefix("results_")
    samples = {
        file.name.removeprefix("samples_").removesuffix(f"_{date}.jsonl"): file
        for file in sorted(path.parent.glob(f"samples_*_{date}.jsonl"))
    }
    return Run(path, date, content, samples)


def read_samples(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a samples file.

    Raises:
        ValueError: a line is damaged.
    """
    with open(path, encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except ValueError as damage:
                raise ValueError(
                    f"{path}, line {number} is damaged ({damage}). Run the task again, or leave "
                    "the file out."
                ) from damage
