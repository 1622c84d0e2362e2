"""Scheduling, commits, failures and kills, with stand-ins for the two commands."""

import json
import os
import subprocess
import sys
import time

import pytest

from ctxbench.core.protocol import cell_folder
from ctxbench.study import cells, folder
from ctxbench.study.launcher import Launcher
from ctxbench.study.loading import load_study
from tests.study.small import ROOT, contents, run, write_study


def statuses(root):
    """Return (row, seed, column) -> (status, reason)."""
    found = {}
    for file in sorted((root / "cells").glob("*/*/*/cell.json")):
        note = json.loads(file.read_text())
        found[note["row"], note["seed"], note["column"]] = (note["status"], note["reason"])
    return found


def test_a_study_fills_every_cell(tmp_path):
    file = write_study(tmp_path)
    run(tmp_path / "out", file)
    found = statuses(tmp_path / "out")
    assert len(found) == (2 + 2 * 2) * 3  # base and untrained, two trained rows on two seeds
    assert set(found.values()) == {("done", None)}
    study = json.loads((tmp_path / "out" / "study.json").read_text())
    assert [row["name"] for row in study["rows"]] == ["base", "pi", "control", "pi-untrained"]
    assert [row["seeds"] for row in study["rows"]] == [[None], [0, 1], [0, 1], [None]]
    assert study["rows"][1]["trained_length"] == study["budget"]["length"] == 1024
    assert str(tmp_path) not in (tmp_path / "out" / "study.json").read_text()
    assert not list((tmp_path / "out" / "runs").rglob("*.json"))
    assert not list((tmp_path / "out" / "train").rglob("checkpoints"))


def test_a_cell_holds_its_own_tasks_without_prompts(tmp_path):
    run(tmp_path / "out", write_study(tmp_path))
    cell = tmp_path / "out" / "cells" / "pi" / "seed-1" / "perplexity_256"
    (results,) = cell.glob("results_*.json")
    assert list(json.loads(results.read_text())["results"]) == ["mini_windows_256"]
    (samples,) = cell.glob("samples_*.jsonl")
    date = results.stem.removeprefix("results_")
    assert samples.name == f"samples_mini_windows_256_{date}.jsonl"
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(lines) == 5
    assert lines[0]["doc"] == {"depth": 0.5, "length": 256}
    assert set(lines[0]) == {"doc_id", "doc", "filtered_resps", "doc_hash", "metrics", "score"}


def test_going_on_with_a_finished_study_runs_nothing(tmp_path):
    file = write_study(tmp_path)
    run(tmp_path / "out", file)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
    run(tmp_path / "out", file, STUB_BAD_MODEL="mini")
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}


def test_other_settings_under_an_existing_folder_are_refused(tmp_path):
    run(tmp_path / "out", write_study(tmp_path))
    changed = load_study(write_study(tmp_path, length=512))
    with pytest.raises(
        ValueError, match=r"other settings: length is 256 there, 512 now\. One .*--o"
    ):
        folder.prepare(changed, tmp_path / "out")


def test_a_failed_training_fails_its_cells_and_the_rest_goes_on(tmp_path):
    root = tmp_path / "out"
    file = write_study(tmp_path)
    run(root, file, STUB_BAD_TRAINING="pi")
    found = statuses(root)
    reason = "The training failed: ctxbench-train: The loss is nan at step 3. (status 1)"
    for (row, _, _), status in found.items():
        assert status == (("failed", reason) if row == "pi" else ("done", None))
    assert folder.retry_failed(root) == 6
    run(root, file)
    assert set(statuses(root).values()) == {("done", None)}


def test_a_failed_column_fails_alone(tmp_path):
    run(tmp_path / "out", write_study(tmp_path), STUB_BAD_TASK="mini_windows_256")
    for (_, _, column), (status, reason) in statuses(tmp_path / "out").items():
        assert status == ("failed" if column == "perplexity_256" else "done")
        if status == "failed":
            assert "ValueError: task mini_windows_256 cannot be" in reason
            assert str(ROOT) not in reason


def test_a_command_killed_by_others_is_started_again(tmp_path):
    run(tmp_path / "out", write_study(tmp_path), devices=1, STUB_KILL_ONCE="1")
    assert (tmp_path / "out" / "killed-once").exists()
    assert set(statuses(tmp_path / "out").values()) == {("done", None)}


def test_a_row_measured_in_some_columns_says_so_of_the_others(tmp_path):
    run(tmp_path / "out", write_study(tmp_path, untrained_columns=["needle"]))
    found = statuses(tmp_path / "out")
    assert found["pi-untrained", None, "needle_256"] == ("done", None)
    assert found["pi-untrained", None, "perplexity_128"] == (
        "missing",
        "this row is measured in needle only",
    )


def test_killed_at_random_moments_the_study_is_the_same(tmp_path):
    file = write_study(tmp_path)
    run(tmp_path / "whole", file)
    done = subprocess.run(
        [sys.executable, "-m", "tests.study.killed_worker", str(tmp_path / "killed"), file, "6"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    # how many of the six come before the end, and when, is up to the machine's load
    assert found["kills"] >= 2, found
    assert len(set(found["cells"])) >= 2, found
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_half_written_cells_are_removed_and_finished_runs_are_divided(tmp_path):
    root, file = tmp_path / "out", write_study(tmp_path)
    runner = run(root, file)
    whole = contents(root)
    row = runner.study.row("base")
    # as if killed while dividing: the run is there, one cell is, one is half-written
    (job,) = [
        runner._measurement(row, None, group, f"group-{n}")
        for n, group in enumerate([runner.study.columns])
    ]
    made = root / "runs" / "base" / "seed-none" / job.name
    run_again(runner, job)
    first, second, third = (root / cell_folder("base", None, c.name) for c in job.columns)
    assert made.is_dir()
    (second / "cell.json").unlink()
    second.rename(cells.partial(second))
    for file_ in sorted(third.iterdir()):
        file_.unlink()
    third.rmdir()
    kept = (first / "cell.json").stat().st_mtime_ns
    run(root, file)
    assert contents(root) == whole
    assert (first / "cell.json").stat().st_mtime_ns == kept
    assert not made.exists()


def run_again(runner, job):
    """Run a job to the moment before its run is divided."""
    partial = cells.partial(runner.root / "runs" / "base" / "seed-none" / job.name)
    partial.mkdir(parents=True)
    subprocess.run(
        [sys.executable, "-m", "tests.study.stub_lm_eval", *job.command.arguments],
        cwd=runner.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    cells.write_json(partial / "seconds.json", {"seconds": 1.0})
    cells.commit(partial, partial.with_name(job.name))


def test_commands_die_with_their_study(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from ctxbench.study.launcher import *\n"
        "launcher = Launcher(Path(sys.argv[1]), {}, warm=False)\n"
        "launcher.start(0, Command('http.server', ('0',)), Path(sys.argv[1], 'log'), {})\n"
        "print('started', flush=True); time.sleep(60)"
    )
    study = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert study.stdout.readline() == "started\n"
    wait_for(lambda: (tmp_path / "log").exists())
    children = wait_for(lambda: server_in(tmp_path))
    study.kill()
    study.wait()
    study.stdout.close()
    wait_for(lambda: not any(alive(child) for child in children))


def server_in(where):
    """Return processes whose working folder is `where` and that run the server."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{entry}/cwd") == str(where):
                found.append(int(entry))
        except OSError:
            continue
    return found


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition):
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("waited for 20 seconds")


def test_the_supervisor_says_how_a_command_ended(tmp_path):
    from ctxbench.study.commands import Command

    with Launcher(tmp_path, {}, warm=False) as launcher:
        launcher.start(7, Command("no_such_module", ()), tmp_path / "log", {})
        assert launcher.wait() == (7, 1)
    assert "No module named no_such_module" in (tmp_path / "log").read_text()
