"""Trains in forked children and kills them with -9; started by test_kill, prints what happened.

Forking after the imports makes a trial cost a second instead of ten.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path


def train_in_child(config) -> int:
    """Start training in a child; return its process id."""
    child = os.fork()
    if child:
        return child
    try:
        train(config)
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def wait_until(condition, child: int) -> bool:
    """Poll; False if the child has ended."""
    while not condition():
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.0002)
    return True


def newest(checkpoints: Path) -> int:
    """Return the step of the newest folder that has its final name."""
    return max((int(f.name[5:]) for f in checkpoints.glob("step_????????")), default=0)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import torch

    from ctxbench.train.checkpoint import find_checkpoint
    from ctxbench.train.loop import train
    from tests.train.small import small_config

    torch.set_num_threads(1)
    folder, moments = Path(sys.argv[1]), int(sys.argv[2])
    values = {"steps": 400, "save_every": 3, "method": "pi", "lr": 1e-3}
    whole = small_config(folder, **values, output=str(folder / "whole"))
    os.waitpid(train_in_child(whole), 0)

    config = small_config(folder, **values, output=str(folder / "killed"))
    checkpoints = folder / "killed" / "checkpoints"
    draw, kills, while_saving, last = random.Random(0), 0, 0, 0
    torn, history = 0, []
    while kills < moments:
        child = train_in_child(config)
        # At least one new checkpoint each time, so that the run gets on.
        alive = wait_until(lambda last=last: newest(checkpoints) > last, child)
        time.sleep(draw.random() * 0.2)
        saving = kills % 2 == 0
        if alive and saving:
            alive = wait_until(lambda: any(checkpoints.glob("*.tmp")), child)
            if kills % 4:  # half of these at once, half a little later; a save takes milliseconds
                time.sleep(draw.random() * 0.01)
        if not alive:
            sys.exit(f"the run ended before it was killed {moments} times; {kills} so far")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        torn += any(checkpoints.glob("*.tmp"))
        while_saving += saving
        found = find_checkpoint(checkpoints, lambda text: None)
        step = found.step if found else 0
        assert step >= last, f"checkpoint {last} was lost: the newest is now {step}"
        last = step
        history.append(step)
    os.waitpid(train_in_child(config), 0)
    print(json.dumps({"while_saving": while_saving, "torn": torn, "steps": history}))
