"""A needle grid with and without shared prefixes, side by side in one run.

    CTXBENCH_DATA=DATA python benchmarks/niah_prefix.py [--length 4096] [--samples 50]

Needs the essays in DATA. Both sides are `ctxext` with the bundled model in this process, on the
same prompts, in turns; the model's answers are compared. The ten depths of a run share what stands
before the shallower needle: 1 / (1 - 0.45) = 1.8 times less to compute where all of it is shared.
"""

import argparse
import time
import warnings

from lm_eval.tasks import TaskManager

from ctxbench.assets import tasks_path
from ctxbench.models.ctxext import CtxExt

METHODS = {
    "pi": {},
    "dynamic_ntk": {},  # shared among prompts of one length: the depths of a run
    "dynamic_ntk, stateless": {"policy": "stateless"},  # may not be shared: must not change
}


def requests_of(task: str, samples: int) -> list:
    metadata = {"tokenizer": "mini", "samples": samples}
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=metadata)
    loaded = manager.load([task])["tasks"][task]
    loaded.build_all_requests(rank=0, world_size=1)
    return loaded.instances


def cpu_seconds(model: CtxExt, requests: list) -> tuple[float, list[str]]:
    start = time.process_time()
    answers = model.generate_until(requests)
    return time.process_time() - start, answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--length", type=int, default=4096, help="tokens, a length of niah")
    parser.add_argument("--samples", type=int, default=50, help="ten depths times the runs")
    parser.add_argument(
        "--stateless", type=int, default=2, help="prompts for the method that is slow"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    name = f"{options.length // 1024}k"

    print(
        f"{'task':14}{'method':24}{'prompts':>8}{'alone s':>9}{'shared s':>10}{'ratio':>7}  answers"
    )
    for task in (f"niah_{name}", f"passkey_{name}"):
        requests = requests_of(task, options.samples)
        for label, arguments in METHODS.items():
            some = requests[: options.stateless] if arguments else requests
            method = label.partition(",")[0]
            models = [
                CtxExt(
                    "mini", method, options.length, share_prefixes=share, device="cpu", **arguments
                )
                for share in (False, True)
            ]
            (alone, theirs), (shared, ours) = (cpu_seconds(model, some) for model in models)
            same = sum(a == b for a, b in zip(theirs, ours, strict=True))
            print(
                f"{task:14}{label:24}{len(some):>8}{alone:>9.1f}{shared:>10.1f}"
                f"{alone / shared:>7.2f}  {same} of {len(some)} equal",
                flush=True,
            )


if __name__ == "__main__":
    main()
