"""Runs the small study in forked children and kills them with -9; prints what happened.

Forking after the imports makes a trial cost half a second instead of four.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.study.small import run


def cells_done(root: Path) -> int:
    """Return how many cells have their final name."""
    return len(list((root / "cells").glob("*/*/*/cell.json")))


def study_in_child(root: Path, file: str) -> int:
    """Start the study in a child; return its process id."""
    child = os.fork()
    if child:
        return child
    try:
        run(root, file, STUB_SECONDS="0.3")
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


if __name__ == "__main__":
    root, file, wanted = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    draw, kills, history = random.Random(0), 0, [0]
    while kills < wanted:
        child = study_in_child(root, file)
        # At least one more cell each second time, so that the study gets on and is not over.
        until = time.monotonic() + 20
        while kills % 2 and cells_done(root) <= history[-1] and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(draw.random() * 0.4)
        if os.waitpid(child, os.WNOHANG)[0]:
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        history.append(cells_done(root))
        assert history[-1] >= history[-2], f"finished cells were lost: {history}"
    if child := study_in_child(root, file):
        assert os.waitpid(child, 0)[1] == 0
    print(json.dumps({"kills": kills, "cells": history}))
