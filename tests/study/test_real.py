"""A small real study through lm_eval and ctxbench-train, killed and resumed."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.study.small import contents

STUDY = {
    "title": "Real",
    "model": "mini",
    "train": {"recipe": "mini", "tokens": 65536, "warmup": 2, "save_every": 4},
    "together": "kind",
    "cache": True,
    "rows": {
        "base": {"label": "Base", "class": "frozen", "method": "none"},
        "pi": {
            "label": "PI",
            "class": "exact",
            "method": "pi",
            "options": {"factor": 4.0},
            "train": {},
        },
    },
    "columns": {
        "perplexity": {
            "kind": "perplexity",
            "task": "mini_windows_{length}",
            "lengths": [128, 256],
            "metric": "ppl_overlap",
            "higher_is_better": False,
            "documents": 2,
        },
        "manyshot": {
            "kind": "manyshot",
            "task": "mini_manyshot_{shots}shot",
            "lengths": [128],
            "shots": [4, 8],
            "metric": "acc",
            "documents": "0:320:32",
        },
        "needle": {
            "kind": "needle",
            "task": "mini_needle_{length}",
            "lengths": [256],
            "metric": "score",
            "documents": 10,
        },
    },
}


def start(where, output):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "ctxbench.cli", "study", "real.yaml", "--output", output]
    return subprocess.Popen(
        [*command, "--device", "cpu", "--processes", "2", "--no-report"],
        cwd=where, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_killed_at_random_moments_a_real_study_is_bitwise_the_same(tmp_path):
    """Also what was trained: the weights, the losses, every answer. Only times differ."""
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    whole = start(tmp_path, "whole")
    began = time.monotonic()
    printed = whole.communicate(timeout=900)[0]
    assert whole.returncode == 0, printed
    seconds = time.monotonic() - began
    draw, kills = random.Random(1), 0
    while kills < 5:
        worker = start(tmp_path, "killed")
        time.sleep(seconds * (0.2 + 0.4 * draw.random()))
        ended = worker.poll() is not None
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        if ended:
            break
        kills += 1
    worker = start(tmp_path, "killed")
    printed = worker.communicate(timeout=900)[0]
    assert worker.returncode == 0, printed
    assert kills >= 2
    one, two = contents(tmp_path / "whole"), contents(tmp_path / "killed")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
