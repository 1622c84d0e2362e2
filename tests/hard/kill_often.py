"""Kills lm_eval and a study with -9 at random moments, again and again, and counts what was lost.

    python -m tests.hard.kill_often --kills 20 --only lm_eval

Runs the command once without disturbance. Then starts it, kills its whole process group at a moment
drawn at random, checks that no process of it is left, and starts it again, until it was killed so
often; when a run gets to its end before it is killed, the next begins in an empty folder. Whatever
gets to its end must have the results of the undisturbed run byte for byte, but for times. Prints
what each kill cost: steps of training after the last one saved; seconds since the last answer was
kept (the batch that was in the works); and checks that no kept answer was ever computed again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tests.study.small import contents

ROOT = Path(__file__).resolve().parents[2]
MARK = "CTXBENCH_KILL_MARK"
LM_EVAL = [
    *("lm_eval", "--model", "ctxext", "--log_samples", "--output_path", "out", "--model_args"),
    "pretrained=mini,method=dynamic_ntk,length=2048,cache=answers",
]
STUDY = ["ctxbench.cli", "study", "mini", "--quick", "--no-report", "--output", "."]
TIMES = ("date", "start_time", "end_time", "total_evaluation_time_seconds", "pretty_env_info")


@dataclass
class Run:
    """One start of the command in a folder.

    Attributes:
        folder: it works in.
        command: module and arguments.
        began: when, seconds since the epoch.
    """

    folder: Path
    command: list[str]
    began: float = field(default_factory=time.time)

    def __post_init__(self):
        self.mark = f"{os.getpid()}-{self.began}"
        with open(self.folder.with_suffix(".log"), "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command],
                cwd=self.folder,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                    "HF_HUB_OFFLINE": "1",
                    "CTXBENCH_TASKS_ONLY": "1",  # lm_eval's own index takes as long as the rest
                    "OMP_NUM_THREADS": "1",
                    MARK: self.mark,
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ended(self, until: float) -> bool:
        """Wait; return whether the command came to its end before that time."""
        while (left := until - time.time()) > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(min(left, 1.0))
                return self.succeeded()
        return self.process.poll() is not None and self.succeeded()

    def succeeded(self) -> bool:
        """Return true.

        Raises:
            SystemExit: the command failed.
        """
        if self.process.returncode:
            sys.exit(self.folder.with_suffix(".log").read_text()[-3000:])
        return True

    def kill(self) -> None:
        """Kill the process group; every process the command started must be gone soon after."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        deadline = time.time() + 5
        while left := list(self.processes()):
            if time.time() > deadline:
                sys.exit(f"Processes outlive the kill: {left}")
            time.sleep(0.01)

    def processes(self) -> Iterator[Path]:
        """Yield /proc folders of all processes that descend from the command."""
        mark = f"{MARK}={self.mark}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes():
                    yield folder

    def open_answers(self) -> dict[Path, float]:
        """Return the answer files that are open in a process of the command, and `changed`."""
        found = set()
        for folder in self.processes():
            with contextlib.suppress(OSError):
                files = [os.readlink(link) for link in (folder / "fd").iterdir()]
                found |= {Path(file) for file in files if file.endswith(".sqlite")}
        return {file: changed(file) for file in found}


@dataclass(frozen=True)
class Kill:
    """What one kill met and cost.

    Attributes:
        after: seconds since the start.
        answers: kept so far, and cells and trained rows of a study.
        waiting: seconds since the last answer of each evaluation that ran, if it had kept any.
        steps: done in each training that ran, after the last one saved.
    """

    after: float
    answers: int
    cells: int
    waiting: list[float]
    steps: list[int]

    def __str__(self) -> str:
        seconds = " ".join(f"{s:.1f}" for s in self.waiting) or "-"
        steps = " ".join(map(str, self.steps)) or "-"
        return f"{self.after:8.1f}{self.answers:9}{self.cells:7}{seconds:>14}{steps:>10}"


def kept_answers(folder: Path) -> dict[str, int]:
    """Return key -> place of every kept answer; one computed again would get another place."""
    found = {}
    for file in folder.glob("answers/*.sqlite"):
        with contextlib.closing(sqlite3.connect(file, timeout=60)) as database:
            rows = database.execute("SELECT key, rowid FROM answers").fetchall()
        found |= {f"{file.name} {key}": place for key, place in rows}
    return found


def changed(file: Path) -> float:
    """Return when an answer was last written to a file, seconds since the epoch."""
    files = [file, file.with_name(f"{file.name}-wal")]
    return max(f.stat().st_mtime for f in files if f.exists())


def unsaved_steps(folder: Path, since: float) -> list[int]:
    """Return the steps done but not saved of each training that has worked since then."""
    found = []
    for metrics in folder.glob("train/*/*/metrics.jsonl"):
        if metrics.stat().st_mtime < since or (metrics.parent / "trained.json").exists():
            continue
        done = len(re.findall(r"\n", metrics.read_text()))
        saved = [int(f.name[5:]) for f in metrics.parent.glob("checkpoints/step_????????")]
        found.append(done - max(saved, default=0))
    return found


def cells_done(folder: Path) -> int:
    """Return how many cells of a study have their final name."""
    return len(list(folder.glob("cells/*/*/*/cell.json")))


def results(folder: Path) -> dict[str, object]:
    """Return what must be equal: every file of a study, or the results and samples of lm_eval."""
    if (folder / "study.json").exists():
        return dict(contents(folder))
    found: dict[str, object] = {}
    for file in folder.glob("out/*/*.json*"):
        name = re.sub(r"_\d{4}-\d\d-\d\dT[\d.-]+?(?=\.json)", "", file.name)
        text = re.sub(r" at 0x[0-9a-f]+>", ">", file.read_text())  # functions in lm-eval's configs
        if file.suffix == ".json":
            found[name] = {k: v for k, v in json.loads(text).items() if k not in TIMES}
        else:
            found[name] = text
    return found


def undisturbed(folder: Path, command: list[str]) -> dict[str, float]:
    """Run to the end, unless that was done; return seconds.

    Returns:
        `total`; `first`: until something was kept; `longest`: between two answers of an evaluation.
    """
    said = folder.with_suffix(".json")
    if said.exists():
        return json.loads(said.read_text())
    folder.mkdir(parents=True)
    run = Run(folder, command)
    times: dict[Path, list[float]] = {}
    first = 0.0
    while not run.ended(time.time() + 0.02):
        for file in folder.glob("answers/*.sqlite"):
            seen = times.setdefault(file, [])
            if not seen or changed(file) > seen[-1]:
                seen.append(changed(file))
        if not first and (times or any(folder.glob("train/*/*/checkpoints/step_*"))):
            first = time.time() - run.began
    gaps = [b - a for seen in times.values() for a, b in pairwise(seen)]
    found = {"total": time.time() - run.began, "first": first, "longest": max(gaps)}
    said.write_text(json.dumps(found))
    return found


def kill_often(
    name: str, command: list[str], kills: int, seed: int, where: Path, within: float | None
) -> str:
    """Kill a command so often; return the summary."""
    whole = undisturbed(where / "whole", command)
    expected = results(where / "whole")
    print(f"{name}, undisturbed: {whole}", flush=True)
    print(f"{'killed':>8}{'answers':>9}{'cells':>7}{'s since last':>14}{'unsaved':>10}", flush=True)
    draw, found, rounds = random.Random(seed), [], 0
    within = within or max(whole["total"] / 6, 2 * whole["first"])  # half of the kills meet work
    while len(found) < kills or rounds == 0:
        folder = where / f"killed-{rounds}"
        folder.mkdir()
        before: dict[str, int] = {}
        while True:
            run = Run(folder, command)
            wait = draw.uniform(0, within) if len(found) < kills else 10 * whole["total"]
            if run.ended(run.began + wait):
                break
            active = run.open_answers()
            at = time.time()
            run.kill()
            answers = kept_answers(folder)
            new = {key.split()[0] for key in answers.keys() - before.keys()}
            waiting = [at - last for file, last in active.items() if file.name in new]
            found.append(
                Kill(
                    after=at - run.began,
                    answers=len(answers),
                    cells=cells_done(folder),
                    waiting=waiting,
                    steps=unsaved_steps(folder, run.began),
                )
            )
            print(found[-1], flush=True)
            if lost := [key for key in before if answers.get(key) != before[key]]:
                sys.exit(f"{len(lost)} kept answers were lost or computed again")
            before = answers
        answers = kept_answers(folder)
        assert all(answers.get(key) == place for key, place in before.items())
        ours = results(folder)
        different = [key for key in expected if ours.get(key) != expected[key]]
        if different or ours.keys() != expected.keys():
            sys.exit(f"{folder} differs from {where / 'whole'}: {different or ours.keys()}")
        rounds += 1
    working = [kill for kill in found if kill.waiting or kill.steps]
    waited = max((s for kill in found for s in kill.waiting), default=0.0)
    steps = max((s for kill in found for s in kill.steps), default=0)
    return (
        f"{name}: {len(found)} kills, {len(working)} of them while it answered or trained, in "
        f"{rounds} run(s) to the end, all equal; no answer lost or computed twice; at most "
        f"{waited:.1f} s since the last answer (undisturbed at most {whole['longest']:.1f} s "
        f"between two) and {steps} step(s) not saved"
    )


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only", choices=["lm_eval", "study"])
    parser.add_argument("--tasks", default="mini_needle_2k,passkey_1k", help="of lm_eval")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--within", type=float, help="seconds after a start: the latest kill")
    parser.add_argument("--folder", type=Path, help="kept; a temporary one without it")
    options = parser.parse_args()
    commands = {"lm_eval": [*LM_EVAL, "--tasks", options.tasks], "study": STUDY}
    with tempfile.TemporaryDirectory() as temporary:
        where = options.folder or Path(temporary)
        summaries = [
            kill_often(name, command, options.kills, options.seed, where / name, options.within)
            for name, command in commands.items()
            if options.only in (None, name)
        ]
    print("\n".join(summaries))


if __name__ == "__main__":
    main()
