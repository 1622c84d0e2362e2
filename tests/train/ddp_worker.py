"""One rank of a two-process run; started by test_loop."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import torch

    from ctxbench.train.loop import train
    from tests.train.small import METHODS, small_config

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        values = {**METHODS[name], "output": str(folder / f"two_{name}"), "processes": 2}
        train(small_config(folder, micro_batch_size=1, **values))
