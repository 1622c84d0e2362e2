"""Trains two updates and prints the highest resident memory of the process, bytes."""

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import torch

    from ctxbench.train.config import make_config
    from ctxbench.train.loop import train

    torch.set_num_threads(1)
    train(make_config(None, json.loads(sys.argv[1])))
    # not ru_maxrss, which a process inherits from the one that started it
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) * 1024)
