"""Stands in for ctxbench-train: a resumable run whose result follows from its arguments."""

import os
import random
import sys
import time
from pathlib import Path

arguments = sys.argv[1:]
output = Path(arguments[arguments.index("--output") + 1])
(output / "checkpoints").mkdir(parents=True, exist_ok=True)
time.sleep(random.random() * float(os.environ.get("STUB_SECONDS", "0")))
if os.environ.get("STUB_BAD_TRAINING", "-") in output.parts:
    sys.exit("ctxbench-train: The loss is nan at step 3.")
(output / "model.txt").write_text(" ".join(arguments))
