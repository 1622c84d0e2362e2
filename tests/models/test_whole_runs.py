"""Whole runs of lm_eval on `ctxext`: two processes, resuming, how the command line ends."""

import json
import os
import subprocess
import sys

import pytest

FAST = {"OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false"}
RUN = [sys.executable, "-m", "lm_eval", "--model", "ctxext"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
ARGS = "pretrained=mini,method=dynamic_ntk,length=512"


def run(command: list[str], **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, env={**os.environ, **FAST, **env}, capture_output=True, text=True, timeout=600
    )


def comparable(folder) -> dict:
    """Results and samples of the only run in a folder, without times, paths and host fields."""
    (file,) = folder.rglob("results_*.json")
    results = json.loads(file.read_text())
    kept = {
        k: results[k] for k in ("results", "group_subtasks", "configs", "versions", "n-samples")
    }
    kept["ctxbench"] = results["config"]["ctxbench"]
    for config in kept["configs"].values():
        config["metadata"].pop("cache", None)  # a path
        config.pop("fewshot_config")  # where lm-eval writes addresses of functions
    for path in sorted(folder.rglob("samples_*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:  # the harness repeats a rank's last request to fill it up, and logs that
            line["resps"] = [answers[:1] for answers in line["resps"]]
        kept[path.name.rpartition("_")[0]] = sorted(lines, key=lambda line: line["doc_id"])
    return kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "tasks", "truncated"),
    [
        (ARGS, "mini_needle_256,mini_ppl_512,mini_multiquery_256", 0),
        (f"{ARGS},truncation=True", "passkey_1k", 7),
    ],
)
def test_two_processes_do_half_each_and_give_the_same_file(arguments, tasks, truncated, tmp_path):
    """Seven documents: one process is filled up by a request again, which counts once."""
    more = ["--model_args", arguments, "--metadata", '{"samples": 10}', "--limit", "7"]
    more += ["--batch_size", "2", "--tasks", tasks, "--log_samples", "--output_path"]
    one = run([*RUN, *more, str(tmp_path / "one")])
    assert one.returncode == 0, one.stderr[-2000:]
    two = run([*TORCHRUN, "-m", "lm_eval", *RUN[3:], *more, str(tmp_path / "two")])
    assert two.returncode == 0, two.stderr[-2000:]
    found = comparable(tmp_path / "one")
    assert found == comparable(tmp_path / "two")
    assert found["ctxbench"]["truncated_prompts"] == truncated
    assert all(config["metadata"]["prompts"]["requests"] for config in found["configs"].values())


COUNTING = """
from pathlib import Path
import lm_eval
from ctxbench.models.ctxext import CtxExt
scored = CtxExt.loglikelihood
def counted(self, requests, **kwargs):
    texts = {request.args for request in requests}
    found = f"rank {self.rank} of {self.world_size} scores {len(texts)}"
    Path(__file__).with_name(f"counted-{self.rank}.txt").write_text(found)
    return scored(self, requests, **kwargs)
CtxExt.loglikelihood = counted
lm_eval.simple_evaluate(
    model="ctxext", model_args={"pretrained": "mini", "method": "pi", "length": 512},
    tasks=["mini_ppl_256"], metadata={"pretrained": "mini", "samples": 7},
)
"""


@pytest.mark.slow
def test_two_processes_share_the_documents(tmp_path):
    script = tmp_path / "counting.py"
    script.write_text(COUNTING)
    done = run([*TORCHRUN, str(script)])
    assert done.returncode == 0, done.stderr[-2000:]
    said = {file.read_text() for file in tmp_path.glob("counted-*.txt")}
    assert said == {"rank 0 of 2 scores 4", "rank 1 of 2 scores 3"}


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_file(tmp_path):
    import signal
    import time

    def command(name: str) -> list[str]:
        args = f"{ARGS},cache={tmp_path / 'cache'}" if name != "whole" else ARGS
        return [
            *RUN,
            "--model_args",
            args,
            "--tasks",
            "mini_needle_512,mini_ppl_512",
            "--log_samples",
            "--output_path",
            str(tmp_path / name),
        ]

    assert run(command("whole")).returncode == 0
    killed = subprocess.Popen(
        command("again"), env={**os.environ, **FAST}, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and killed.poll() is None:
        if any(file.stat().st_size > 20_000 for file in tmp_path.glob("cache/*.sqlite*")):
            break
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not list((tmp_path / "again").rglob("results_*"))
    assert run(command("again")).returncode == 0
    assert comparable(tmp_path / "again") == comparable(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("pretrained=mini,method=yran", "There is no method 'yran'"),
        ("pretrained=./nowhere,method=pi,length=2048", "There is no folder ./nowhere"),
        ("pretrained=mini,method=pi,length=2048,lenght=1", "ctxext has no argument 'lenght'"),
    ],
)
def test_the_command_line_ends_in_one_line(arguments, words):
    done = run([*RUN, "--model_args", arguments, "--tasks", "mini_needle_128"])
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("ctxbench: ")
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
