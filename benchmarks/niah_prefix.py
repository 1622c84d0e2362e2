"""A needle grid with and without shared prefixes, side by side in one run.

    CTXBENCH_DATA=DATA python benchmarks/niah_prefix.py [--length 4096] [--samples 50]

Needs the essays in DATA. Both sides are `ctxext` in this process, on the same prompts, one after
the other; the answers are compared. `wide` is a random Llama (12 million parameters besides its
embedding) in which, as in large models, most of the work is in the matrices; in the bundled `mini`
most is in attention and in the 50 new tokens, which sharing does not save.

The ten depths of a run share what stands before the shallower needle, at best 0.45 of all tokens.
So 1.8 is the most that can be gained of the time for matrices, and less of attention's, where
early tokens are cheap.
"""

import argparse
import tempfile
import time
import warnings

import torch
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ctxbench.assets import resolve_model, tasks_path
from ctxbench.models.ctxext import CtxExt

METHODS = {
    "pi": {},
    "dynamic_ntk": {},  # shared among prompts of one length: the depths of a run
    "dynamic_ntk, stateless": {"policy": "stateless"},  # may not be shared: must not change
}


def save_wide_llama(folder: str) -> None:
    """Write a random Llama with the bundled model's tokenizer and window."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("mini"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=4,
        num_attention_heads=8,
        max_position_embeddings=256,
        initializer_range=0.1,  # so that answers differ from prompt to prompt
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


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
    parser.add_argument("--samples", type=int, default=20, help="ten depths times the runs")
    parser.add_argument("--stateless", type=int, default=2, help="prompts for that method: slow")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    task = f"niah_{options.length // 1024}k"
    requests = requests_of(task, options.samples)
    print(f"{task}: CPU seconds without and with shared prefixes")
    print(f"{'model':8}{'method':24}{'prompts':>8}{'without':>9}{'with':>9}{'ratio':>7}  answers")
    with tempfile.TemporaryDirectory() as folder:
        save_wide_llama(folder)
        for name, model in (("wide", folder), ("mini", "mini")):
            for label, arguments in METHODS.items():
                some = requests[: options.stateless] if arguments else requests
                method = label.partition(",")[0]
                (alone, theirs), (shared, ours) = (
                    cpu_seconds(
                        CtxExt(
                            model,
                            method,
                            options.length,
                            share_prefixes=share,
                            device="cpu",
                            **arguments,
                        ),
                        some,
                    )
                    for share in (False, True)
                )
                same = sum(a == b for a, b in zip(theirs, ours, strict=True))
                print(
                    f"{name:8}{label:24}{len(some):>8}{alone:>9.1f}{shared:>9.1f}"
                    f"{alone / shared:>7.2f}  {same} of {len(some)} equal",
                    flush=True,
                )


if __name__ == "__main__":
    main()
