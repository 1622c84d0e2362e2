"""One rank of several: trains the runs of a JSON list; started by tests.train.ranks.

A run is settings of `small_config`; with `stop` it is interrupted before that step; with
`slow_reading` the first process takes so many seconds to read data, and with `group_timeout` the
others' collectives wait no longer than that.
"""

import json
import sys
from pathlib import Path


def pretend_gpus(sharding: bool) -> None:
    """Accelerate shards on GPUs alone. Its private state is told that these CPUs are some."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    PartialState(cpu=True)
    kind = DistributedType.MULTI_XPU if sharding else DistributedType.MULTI_CPU
    PartialState._shared_state["distributed_type"] = kind


def forget_run() -> None:
    """Take back what Accelerate keeps of one run and a process with one run never sees."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=False)
    GradientState._reset_state()


def slow_down(reading: float, timeout: float) -> None:
    """Make reading data slow on the first process, and the others impatient."""
    import os
    import time
    from datetime import timedelta

    import torch.distributed as dist

    from ctxbench.train import loop

    opened = loop.open_mixture

    def slowly(*arguments, **options):
        if os.environ["RANK"] == "0":
            time.sleep(reading)
        return opened(*arguments, **options)

    if reading:
        loop.open_mixture = slowly
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=timeout))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import torch

    from ctxbench.train import loop
    from tests.train.small import interrupt_at, small_config

    torch.set_num_threads(1)
    folder, rate = Path(sys.argv[1]), loop.learning_rate
    for values in json.loads(sys.argv[2]):
        pretend_gpus(values.get("shard", 1) > 1)
        stop = values.pop("stop", None)
        slow_down(values.pop("slow_reading", 0), values.pop("group_timeout", 0))
        loop.learning_rate = interrupt_at(stop) if stop else rate
        try:
            loop.train(small_config(folder, **values))
        except KeyboardInterrupt:
            assert stop
        forget_run()
