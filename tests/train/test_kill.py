"""Killed with -9 at random moments and resumed: nothing is lost and nothing changes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.small import losses

WORKER = Path(__file__).with_name("kill_worker.py")


@pytest.mark.slow
def test_killed_twenty_times_the_curve_is_bitwise_the_same(tmp_path):
    done = subprocess.run(
        [sys.executable, str(WORKER), str(tmp_path), "20"],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["while_saving"] == 10
    assert found["torn"] >= 1, "no kill hit a half-written checkpoint, which shows too little"
    assert len(losses(tmp_path / "whole")) == 400
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
