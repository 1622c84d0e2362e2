"""Runs a study: trains what must be trained, measures everything, loses nothing to a kill.

Whatever has its final name is whole (`cells.py`), so that going on is starting again: what is
there is kept, the rest is run. A run of lm_eval keeps its answers (`cache: true`), and a training
its steps, so that a kill costs a batch or a step of each command that ran. A run always holds the
same columns, so its numbers do not depend on what happened before.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ctxbench.core.protocol import (
    CellNote,
    Column,
    Row,
    cell_folder,
    seed_folder,
    training_folder,
)
from ctxbench.study import cells
from ctxbench.study.commands import (
    EVALUATE,
    Command,
    evaluate_command,
    groups,
    train_command,
)
from ctxbench.study.config import Study
from ctxbench.study.display import Display, Running, share_done
from ctxbench.study.launcher import Launcher
from ctxbench.study.time_left import READ, TRAIN, TimeLeft, Work, tokens_to_read

_KILLED_TIMES = 3  # starts of a command that was killed, before its cells count as failed
_INTERRUPTED = (143,)  # ctxbench-train after SIGTERM: saved, not finished
_REASON_LINES, _REASON_CHARACTERS = 3, 600


@dataclass(frozen=True)
class Job:
    """One command: a training, or a run of lm_eval for some columns.

    Attributes:
        row: it is for.
        seed: of the row.
        columns: measured, () for a training.
        name: of its run folder and log.
        command: to run.
        devices: GPUs or cores it needs.
    """

    row: Row
    seed: int | None
    columns: tuple[Column, ...]
    name: str
    command: Command
    devices: int = 1

    def __str__(self) -> str:
        """Return what is shown of it."""
        seed = "" if self.seed is None else f" seed {self.seed}"
        what = "train" if not self.columns else f"{len(self.columns)} columns"
        if len(self.columns) == 1:
            what = self.columns[0].name
        return f"{self.row.label}{seed}: {what}"


@dataclass(frozen=True)
class _Started:
    """A job that runs, the numbers of its devices, and when it began (monotonic seconds)."""

    job: Job
    used: tuple[int, ...]
    began: float


@dataclass
class Runner:
    """Runs what is missing of a study.

    Attributes:
        study: to run.
        root: its folder.
        devices: one environment per GPU or core.
        rows: names of the rows to run; all by default.
        programs: module name -> module that is run in its place (tests).
        display: shows how far it is; by default nothing is shown.
    """

    study: Study
    root: Path
    devices: Sequence[Mapping[str, str]]
    rows: Sequence[str] = ()
    programs: Mapping[str, str] = field(default_factory=dict)
    display: Display = field(default_factory=Display)
    _kills: dict[str, int] = field(default_factory=dict)
    _time: TimeLeft = field(default_factory=TimeLeft)
    _running: dict[int, _Started] = field(default_factory=dict)

    def run(self, launcher: Launcher) -> None:
        """Run every missing cell of the chosen rows, several commands at a time."""
        cells.clean(self.root)
        ready = [job for row, seed in self._pairs() for job in self._jobs(row, seed)]
        ready.sort(key=lambda job: bool(job.columns))  # trainings first: they are the long ones
        free = list(range(len(self.devices)))
        number = 0
        self.display.refresh = self._show
        self._show()
        while ready or self._running:
            while (job := _next(ready, len(free), bool(self._running))) is not None:
                ready.remove(job)
                used = [free.pop(0) for _ in range(min(job.devices, len(self.devices)))]
                self._running[number] = _Started(job, tuple(used), time.monotonic())
                self._start(launcher, number, job, used)
                number += 1
            self._show()
            ended, status = launcher.wait()
            started = self._running.pop(ended)
            free = sorted([*free, *started.used])
            ready = [*self._ended(started, status), *ready]
            ready.sort(key=lambda job: bool(job.columns))
        self._show()

    def _ended(self, started: _Started, status: int) -> list[Job]:
        """Commit what a command made, say what came of it; return the jobs that can follow."""
        job, seconds = started.job, time.monotonic() - started.began
        if status == 0:
            self._time.learn(self._work(job), seconds * len(started.used))
        following = self._finish(job, status, seconds)
        word = "done" if status == 0 else f"ended with status {status}"
        self.display.state.last = f"{job}: {word} in {seconds:.0f} s{self._scores(job)}"
        self._show()
        state = self.display.state
        self.display.say(f"[{state.done}/{state.total} cells] {state.last}")
        return following

    # ------------------------------------------------------------------ showing

    def _show(self) -> None:
        """Tell the display where the study is."""
        state, now = self.display.state, time.monotonic()
        notes = [self._note(*place) for place in self._places()]
        state.total, state.done = len(notes), sum(note is not None for note in notes)
        state.failed = sum(note is not None and note.status == "failed" for note in notes)
        running = list(self._running.values())
        state.running = [Running(str(one.job), self._log(one.job), one.began) for one in running]
        works = [
            (self._work(one.job), (now - one.began) * len(one.used), share_done(self._log(one.job)))
            for one in running
        ]
        left = self._time.left(self._waiting(), works, len(self.devices))
        state.left, state.left_whole = left
        state.left_at = now

    def _work(self, job: Job) -> Work:
        """Return what a job does."""
        return {READ: tokens_to_read(job.columns, self.study.length)} if job.columns else {TRAIN: 1}

    def _waiting(self) -> Work:
        """Return the work of the chosen rows that no command does yet."""
        jobs = [started.job for started in list(self._running.values())]
        trainings, tokens = 0, 0.0
        for row, seed in self._pairs():
            mine = [job for job in jobs if (job.row.name, job.seed) == (row.name, seed)]
            read = {column.name for job in mine for column in job.columns}
            columns = [c for c in self.study.columns_of(row) if self._note(row, seed, c) is None]
            tokens += tokens_to_read([c for c in columns if c.name not in read], self.study.length)
            trains = row.train is not None and not self._trained(row, seed).is_file()
            trainings += bool(columns) and trains and not mine
        return {TRAIN: trainings, READ: tokens}

    def _scores(self, job: Job) -> str:
        """Return the last score of each kind of column that a job measured."""
        kinds = {column.kind: column for column in job.columns}
        found = []
        for column in kinds.values():
            cell = self.root / cell_folder(job.row.name, job.seed, column.name)
            score = cells.score_of(cell, column)
            found += [] if score is None else [f"{column.name} {score:.3g}"]
        return f" ({', '.join(found)})" if found else ""

    # ----------------------------------------------------------------- planning

    def _pairs(self) -> Iterator[tuple[Row, int | None]]:
        for row in self.study.rows:
            if not self.rows or row.name in self.rows:
                for seed in row.seeds:
                    yield row, seed

    def _places(self) -> Iterator[tuple[Row, int | None, Column]]:
        """Yield every cell of the chosen rows."""
        for row, seed in self._pairs():
            for column in self.study.columns_of(row):
                yield row, seed, column

    def _jobs(self, row: Row, seed: int | None) -> list[Job]:
        """Return what can be started for a row and seed: its training, or its measurements."""
        missing = [c for c in self.study.columns_of(row) if self._note(row, seed, c) is None]
        if not missing:  # a kill may have left what the last cells were made of
            shutil.rmtree(self._run_folder(row, seed, "any").parent, ignore_errors=True)
            return []
        if row.train is None or self._trained(row, seed).is_file():
            return self._measurements(row, seed)
        assert seed is not None
        command = train_command(self.study, row, seed)
        return [Job(row, seed, (), "train", command, self.study.processes(row))]

    def _measurements(self, row: Row, seed: int | None) -> list[Job]:
        jobs = []
        for number, group in enumerate(groups(self.study, row)):
            whole = self._measurement(row, seed, group, f"group-{number}")
            if self._collect(whole):
                continue
            missing = tuple(c for c in group if self._note(row, seed, c) is None)
            if len(missing) == len(group):
                jobs.append(whole)
            else:  # the group failed as a whole and its columns were being run one by one
                jobs += self._one_by_one(row, seed, missing)
        return jobs

    def _one_by_one(self, row: Row, seed: int | None, columns: Sequence[Column]) -> list[Job]:
        jobs = [self._measurement(row, seed, (c,), f"column-{c.name}") for c in columns]
        return [job for job in jobs if not self._collect(job)]

    def _measurement(
        self, row: Row, seed: int | None, columns: tuple[Column, ...], name: str
    ) -> Job:
        output = cells.partial(self._run_folder(row, seed, name)).relative_to(self.root)
        command = evaluate_command(self.study, row, seed, columns, str(output))
        if self.study.cache:
            at = command.arguments.index("--model_args") + 1
            cached = f"{command.arguments[at]},cache=answers"
            command = Command(
                EVALUATE, (*command.arguments[:at], cached, *command.arguments[at + 1 :])
            )
        return Job(row, seed, columns, name, command)

    # ------------------------------------------------------------------ running

    def _start(self, launcher: Launcher, number: int, job: Job, used: list[int]) -> None:
        environment = dict(self.devices[used[0]])
        if len(used) > 1 and (visible := "CUDA_VISIBLE_DEVICES") in environment:
            environment[visible] = ",".join(self.devices[i][visible] for i in used)
        if job.columns:
            building = cells.partial(self._run_folder(job.row, job.seed, job.name))
            if building.exists():
                shutil.rmtree(building)
            building.mkdir(parents=True)
        program = self.programs.get(job.command.module, job.command.module)
        launcher.start(number, Command(program, job.command.arguments), self._log(job), environment)

    def _finish(self, job: Job, status: int, seconds: float) -> list[Job]:
        """Commit what a command made; return the jobs that can follow."""
        if status < 0 or status in _INTERRUPTED:
            key = f"{job.row.name} {job.seed} {job.name}"
            self._kills[key] = self._kills.get(key, 0) + 1
            if self._kills[key] < _KILLED_TIMES:
                return [job]
        if not job.columns:
            return self._finish_training(job, status, seconds)
        run = self._run_folder(job.row, job.seed, job.name)
        reason = None if status == 0 else self._reason(job, status)
        if reason is None:
            try:
                cells.divide(cells.partial(run), job.columns)
            except (ValueError, KeyError) as error:
                reason = f"{error} {self._reason(job, status)}"
        if reason is None:
            cells.write_json(cells.partial(run) / "seconds.json", {"seconds": seconds})
            cells.commit(cells.partial(run), run)
            assert self._collect(job)
            return []
        shutil.rmtree(cells.partial(run), ignore_errors=True)
        if len(job.columns) > 1:
            return self._one_by_one(job.row, job.seed, job.columns)
        self._fail(job.row, job.seed, job.columns, reason, seconds)
        return []

    def _finish_training(self, job: Job, status: int, seconds: float) -> list[Job]:
        row, seed = job.row, job.seed
        if status != 0:
            reason = f"The training failed: {self._reason(job, status)}"
            self._fail(row, seed, self.study.columns_of(row), reason, seconds)
            return []
        marker = self._trained(row, seed)
        cells.write_json(marker, {"command": str(job.command), "seconds": seconds})
        shutil.rmtree(marker.parent / "checkpoints", ignore_errors=True)
        return self._measurements(row, seed)

    def _collect(self, job: Job) -> bool:
        """Make cells of a finished run, if there is one; say whether there was."""
        run = self._run_folder(job.row, job.seed, job.name)
        if not run.is_dir():
            return False
        seconds = cells.read_json(run / "seconds.json")["seconds"]
        files = cells.divide(run, job.columns)
        for column in job.columns:
            self._write(job.row, job.seed, column, "done", None, seconds, files[column.name])
        shutil.rmtree(run)
        return True

    def _fail(
        self, row: Row, seed: int | None, columns: Sequence[Column], reason: str, seconds: float
    ) -> None:
        for column in columns:
            self._write(row, seed, column, "failed", reason, seconds, {})

    def _write(
        self, row: Row, seed: int | None, column: Column, status: Literal["done", "failed"],
        reason: str | None, seconds: float, files: dict[str, str],
    ) -> None:  # fmt: skip
        """Write a cell unless it is there."""
        if self._note(row, seed, column) is None:
            note = CellNote(
                row=row.name,
                seed=seed,
                column=column.name,
                status=status,
                reason=reason,
                command=str(evaluate_command(self.study, row, seed, [column])),
                seconds=round(seconds, 1),
            )
            cells.write_cell(self.root, note, files)

    # ------------------------------------------------------------------- places

    def _note(self, row: Row, seed: int | None, column: Column) -> CellNote | None:
        return cells.note_of(self.root / cell_folder(row.name, seed, column.name))

    def _trained(self, row: Row, seed: int | None) -> Path:
        return self.root / training_folder(row.name, seed) / "trained.json"

    def _run_folder(self, row: Row, seed: int | None, name: str) -> Path:
        return self.root / "runs" / row.name / seed_folder(seed) / name

    def _log(self, job: Job) -> Path:
        return self.root / "logs" / job.row.name / seed_folder(job.seed) / f"{job.name}.log"

    def _reason(self, job: Job, status: int) -> str:
        """Return the end of a command's log, without paths of this machine."""
        text = self._log(job).read_text(encoding="utf-8", errors="replace")
        text = text.replace(f"{self.root.resolve()}/", "")
        lines = [re.sub(r".*\r", "", line).rstrip() for line in text.splitlines()]
        said = [line for line in lines if line and not line.startswith(" ")][-_REASON_LINES:]
        end = f"killed by signal {-status}" if status < 0 else f"status {status}"
        return f"{' / '.join(said)[-_REASON_CHARACTERS:]} ({end})"


def _next(ready: Sequence[Job], free: int, busy: bool) -> Job | None:
    """Return the first job that fits the free devices; one that needs all waits for all."""
    for job in ready:
        if job.devices <= free or (not busy and free):
            return job
    return None
