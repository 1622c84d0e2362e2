"""`ctxbench study` and `ctxbench plan`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def add_parsers(subparsers) -> None:
    """Add `study` and `plan` to the command line."""
    study = subparsers.add_parser(
        "study", help="run a whole study: train, measure, report; goes on where it was killed"
    )
    _common(study)
    study.add_argument("--output", type=Path, help="folder of the study (studies/NAME)")
    study.add_argument("--limit", help=argparse.SUPPRESS)  # refused in a sentence
    study.add_argument("--rows", help="run these rows now, comma-separated; the others later")
    study.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: GPUs if any"
    )
    study.add_argument("--processes", type=int, help="commands at a time on CPUs (cores)")
    study.add_argument("--retry-failed", action="store_true", help="run failed cells again")
    study.add_argument("--no-report", action="store_true", help="stop before the report")
    study.set_defaults(run=_study)
    plan = subparsers.add_parser(
        "plan", help="what a study will cost: cells, tokens, memory, hours, and what is missing"
    )
    _common(plan)
    plan.add_argument("--gpu", default="A100", help="A100, H100 or H200 (A100)")
    plan.add_argument("--gpus", type=int, default=8, help="GPUs at once (8)")
    plan.add_argument("--price", type=float, help="per GPU hour, in any currency")
    plan.add_argument("--mfu", type=float, default=0.4, help="share of the peak reached (0.4)")
    plan.set_defaults(run=_plan)


def _common(parser) -> None:
    parser.add_argument("name", nargs="?", help="a study or a .yaml file; none lists the studies")
    parser.add_argument("--quick", action="store_true", help="the study's own small version")
    parser.add_argument("--model", help="in place of the study's: folder or hub id")
    parser.add_argument("--window", help="of the model, tokens, if it is not here to be read")
    parser.add_argument("--length", help="window at evaluation, tokens, such as 32k")
    parser.add_argument("--data", nargs="+", help="training data, as for ctxbench-train --data")
    parser.add_argument("--seeds", type=int, nargs="+", help="of the trained rows")


def _load(options: argparse.Namespace):
    from ctxbench.study.loading import load_study

    names = ("model", "window", "length", "seeds")
    overrides: dict[str, Any] = {n: v for n in names if (v := getattr(options, n)) is not None}
    if options.data:
        overrides["train"] = {"data": options.data}
    return load_study(options.name, quick=options.quick, overrides=overrides)


def _list() -> int:
    from ctxbench.core.text_files import read_yaml
    from ctxbench.study.loading import FOLDER, list_studies

    for name in list_studies():
        title = read_yaml(FOLDER / f"{name}.yaml").get("title", "")
        print(f"  {name.ljust(22)}{title}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    if options.name is None:
        return _list()
    from ctxbench.study.cost import describe_cost, study_cost

    study = _load(options)
    cost = study_cost(study, gpu=options.gpu, mfu=options.mfu)
    print("\n".join(describe_cost(cost, gpus=options.gpus, price=options.price)))
    return 0


def _study(options: argparse.Namespace) -> int:
    if options.name is None:
        return _list()
    from filelock import FileLock, Timeout

    from ctxbench.core.errors import near_names
    from ctxbench.study import folder
    from ctxbench.study.config import untrained
    from ctxbench.study.display import LOG, Display
    from ctxbench.study.launcher import Launcher
    from ctxbench.study.paths import seen_from
    from ctxbench.study.runner import Runner

    if options.limit is not None:
        raise ValueError(
            f"--limit {options.limit} would cut every column of a study alike, and its cells would "
            "look whole. A study file says how many documents a column reads: set `documents`, or "
            "give --quick."
        )
    began = time.monotonic()
    study = _load(options)
    rows = options.rows.split(",") if options.rows else []
    for row in rows:
        if row not in (known := [r.name for r in study.rows]):
            raise ValueError(
                f"--rows names {row!r}{near_names(row, known)} Rows: {', '.join(known)}. Correct "
                "it."
            )
    devices = _devices(options)
    if devices[0]:  # GPUs
        _check_devices(study, [r for r in study.rows if not rows or r.name in rows], len(devices))
    root = options.output or Path("studies") / study.name
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / ".lock", timeout=0):
            folder.prepare(study, root)
            if options.retry_failed:
                print(f"{folder.retry_failed(root)} failed cells are run again.")
            for line in untrained(study):
                print(line)
            print(f"{study.title}: {_counts(folder.count(study, root))}; {len(devices)} at a time")
            print(f"{root / LOG} has a line a minute, {root / 'logs'} what each command prints.")
            sys.stdout.flush()
            environment = _environment(study, devices)
            with (
                Launcher(root, environment, warm=not devices[0]) as launcher,
                Display(root / LOG) as display,
            ):
                runs = seen_from(study, root)
                Runner(runs, root, devices, rows, display=display).run(launcher)
    except Timeout:
        raise ValueError(
            f"Another `ctxbench study` writes to {root}. One process works on a folder. Wait for "
            "it, end it, or give another --output."
        ) from None
    found = folder.count(study, root)
    print(f"{_counts(found)} in {(time.monotonic() - began) / 60:.1f} minutes: {root}")
    for name in found["failed"]:
        print(f"  failed: {name}")
    if found["failed"]:
        print("`--retry-failed` runs them again; logs/ holds what they printed.")
    reported = True if options.no_report else _report(root)
    return int(bool(found["failed"]) or not reported)


def _counts(found: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{len(names)} cells {status}" for status, names in found.items() if names)


def _devices(options: argparse.Namespace) -> list[dict[str, str]]:
    """Return what each command at a time adds to its environment: a GPU; nothing for a core."""
    if options.device != "cpu":
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else map(str, range(torch.cuda.device_count()))
        if torch.cuda.is_available():
            return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
        if options.device == "cuda":
            raise ValueError(
                "--device cuda was given and torch finds no GPU. A study runs on CPUs too. Leave "
                "--device out, or mend the installation."
            )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [{} for _ in range(options.processes or cores or 1)]


def _check_devices(study, rows, gpus: int) -> None:
    """Check that no row trains on more GPUs than there are.

    Raises:
        ValueError: one does.
    """
    for row in rows:
        if (number := study.processes(row)) > gpus:
            raise ValueError(
                f"Row {row.name} trains on {number} GPUs (processes: {number}); {gpus} are here. "
                f"`ctxbench plan NAME --gpus {gpus}` says what does not fit and what would. Set "
                "processes and shard under `train`, or leave the row out with --rows."
            )


def _environment(study, devices: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the environment of all commands."""
    from ctxbench.core.assets import BUNDLED_MODELS
    from ctxbench.study import paths

    found = {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", **paths.environment()}
    if not study.other_tasks:
        found["CTXBENCH_TASKS_ONLY"] = "1"
    if study.model in BUNDLED_MODELS and not (study.other_tasks or study.include_path):
        found |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    if not devices[0]:  # a core each
        found |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return found


def _report(root: Path) -> bool:
    """Write the report; say plainly if it could not be written."""
    command = [sys.executable, "-m", "ctxbench.cli", "report", "study", str(root)]
    done = subprocess.run(command, check=False)
    if done.returncode:
        print(
            f"The cells are done, the report is not: `ctxbench report study {root}` ended with "
            f"status {done.returncode}. Run it again by itself.",
            file=sys.stderr,
        )
    return done.returncode == 0
