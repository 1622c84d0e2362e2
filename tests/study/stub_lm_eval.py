"""Stands in for lm_eval: writes its files, scores drawn from the names, after a short while."""

import argparse
import json
import os
import random
import signal
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("--model", "--model_args", "--tasks", "--metadata", "--samples", "--output_path"):
    parser.add_argument(name)
parser.add_argument("--log_samples", action="store_true")
given = parser.parse_args()
tasks = given.tasks.split(",")
time.sleep(random.random() * float(os.environ.get("STUB_SECONDS", "0")))
once = Path("killed-once")
if os.environ.get("STUB_KILL_ONCE") and not once.exists():
    once.touch()
    os.kill(os.getpid(), signal.SIGKILL)
if bad := [task for task in tasks if task == os.environ.get("STUB_BAD_TASK")]:
    print(f"Traceback ...\n  File {__file__}\nValueError: task {bad[0]} cannot be")
    sys.exit(1)
if os.environ.get("STUB_BAD_MODEL", "no such model") in given.model_args:
    sys.exit("ctxbench: the model cannot be opened")
date = datetime.now(timezone.utc).isoformat().replace(":", "-")
folder = Path(given.output_path) / "mini"
folder.mkdir(parents=True)
documents = json.loads(given.samples) if given.samples else {}
content = {part: {} for part in ("results", "configs", "higher_is_better", "n-samples")}
for task in tasks:
    numbers = documents.get(task) or range(5)
    draws = [random.Random(f"{given.model_args} {task} {n}").random() for n in numbers]
    content["results"][task] = {"score,none": sum(draws) / len(draws)}
    for part in ("configs", "higher_is_better", "n-samples"):
        content[part][task] = {"of": task}
    with open(folder / f"samples_{task}_{date}.jsonl", "w") as stream:
        for n, score in zip(numbers, draws, strict=True):
            doc = {"prompt": "x" * 500, "depth": 0.5, "length": 256}
            record = {"doc_id": n, "doc": doc, "arguments": ["x" * 500], "resps": [["y"]]}
            record |= {"filtered_resps": ["y"], "doc_hash": "h", "metrics": ["score"]}
            stream.write(json.dumps({**record, "score": score}) + "\n")
content |= {"group_subtasks": {task: [] for task in tasks}, "date": time.time()}
content["config"] = {"model_args": given.model_args}
(folder / f"results_{date}.json").write_text(json.dumps(content))
