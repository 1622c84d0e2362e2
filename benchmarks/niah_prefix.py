"""A needle grid with and without shared prefixes, side by side in one run.

    CTXBENCH_DATA=DATA python benchmarks/niah_prefix.py [--length 4096] [--samples 10]

Needs the essays in DATA. Both sides are `ctxext` in this process, on the same prompts, one after
the other; the answers are compared. The model is a random Llama with the bundled tokenizer, wide
enough (12 million parameters besides its embedding) that most of the work is in the matrices, as in
large models.

The ten depths of a run share what stands before the shallower needle. Of all prompt tokens that is
0.45 at most (0.31 to 0.40 for prompts of which a fifth or more is shared), so 1.8 is the most that
can be gained of the matrices' time, less of attention's, where early tokens are cheap, and nothing
of the new tokens' time: hence one line with a single new token, one with the task's 50.
"""

import argparse
import tempfile
import time
import warnings

import torch
from claims import claim
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ctxbench.core.assets import resolve_model
from ctxbench.models.ctxext import CtxExt
from ctxbench.tasks.leaf_files import tasks_path

METHODS = {
    "pi": {},
    "dynamic_ntk": {},  # shared among prompts of one length: the depths of a run
    "dynamic_ntk, stateless": {"policy": "stateless"},  # may not be shared: no change
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


def cpu_seconds(model: CtxExt, requests: list, new_tokens: int) -> tuple[float, list[str]]:
    for request in requests:
        request.arguments[1]["max_gen_toks"] = new_tokens
    start = time.process_time()
    answers = model.generate_until(requests)
    return time.process_time() - start, answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--length", type=int, default=4096, help="tokens, a length of niah")
    parser.add_argument("--samples", type=int, default=10, help="ten depths times the runs")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    task = f"niah_{options.length // 1024}k"
    requests = requests_of(task, options.samples)
    print(f"{task}, {len(requests)} prompts: CPU seconds without and with shared prefixes")
    print(f"{'method':24}{'new tokens':>10}{'without':>9}{'with':>9}{'ratio':>7}  answers")
    with tempfile.TemporaryDirectory() as folder:
        save_wide_llama(folder)
        for label, arguments in METHODS.items():
            method = label.partition(",")[0]
            models = [
                CtxExt(
                    folder, method, options.length, share_prefixes=share, device="cpu", **arguments
                )
                for share in (False, True)
            ]
            for new_tokens in (1,) if arguments else (1, 50):
                (alone, theirs), (shared, ours) = (
                    cpu_seconds(model, requests, new_tokens) for model in models
                )
                same = sum(a == b for a, b in zip(theirs, ours, strict=True))
                print(
                    f"{label:24}{new_tokens:>10}{alone:>9.1f}{shared:>9.1f}"
                    f"{alone / shared:>7.2f}  {same} of {len(requests)} equal",
                    flush=True,
                )
                what = f"{task}, {label}, {new_tokens} new tokens: processor time"
                claim(what, shared / alone, "ctxext without shared prefixes")


if __name__ == "__main__":
    main()
