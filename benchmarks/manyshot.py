"""Many-shot TREC, 1000 shots, 50 fine labels, 20 questions: `ctxext` beside lm-eval's own `hf`.

    CTXBENCH_DATA=DATA python benchmarks/manyshot.py [--shots 1000] [--questions 20] [--stock 3]

Needs the TREC files and a 32k tokenizer (`llama_tokenizer`) in DATA. The model is a small random
Llama in float32; both sides run the same task through lm-eval on the same weights, in this process.
`hf` pays the whole prompt for every label, hours at 1000 shots: it is timed on the first `--stock`
requests, and the rest is extrapolated as that many times the same cost. Predictions are compared on
all questions at 50 shots, where `hf` can be run to the end, and the measured log-likelihoods at the
full number of shots.
"""

import argparse
import tempfile
import time
import warnings

import torch
from claims import claim
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ctxbench.core.assets import require_data
from ctxbench.models.ctxext import CtxExt
from ctxbench.tasks.leaf_files import tasks_path

MAX_LENGTH = 65536  # tokens


def random_llama(vocab_size: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.1,  # so that predictions differ from question to question
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def load_task(tokenizer: str, shots: int, questions: int):
    metadata = {"tokenizer": tokenizer, "runs": 1, "samples": questions}
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=metadata)
    name = f"trec_fine_{shots}shot"
    return manager, name


def requests_of(manager, name: str) -> list:
    task = manager.load([name])["tasks"][name]
    task.build_all_requests(rank=0, world_size=1)
    return task.instances


def predictions(model, manager, name: str) -> list[list[float]]:
    """Return, per question, the log-likelihoods of all continuations and both results."""
    out = simple_evaluate(
        model=model, tasks=[name], task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    return [
        [max(range(50), key=lambda i: s["resps"][i][0][0]), s["acc"], s["acc_constrained"]]
        for s in out["samples"][name]
    ]


def timed(function, *arguments):
    start, cpu = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return result, time.perf_counter() - start, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shots", type=int, default=1000)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--stock", type=int, default=3, help="requests that hf is timed on")
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    tokenizer = str(require_data("llama_tokenizer", get="It is Llama-2's tokenizer."))
    weights = random_llama(len(AutoTokenizer.from_pretrained(tokenizer)))
    with tempfile.TemporaryDirectory() as folder:
        weights.save_pretrained(folder)
        ours = CtxExt(folder, tokenizer=tokenizer, device="cpu", add_bos_token=False)
        stock = HFLM(folder, tokenizer=tokenizer, device="cpu", batch_size=1, add_bos_token=False)

    few = load_task(tokenizer, 50, options.questions)
    same = predictions(ours, *few) == predictions(stock, *few)
    print(f"50 shots, {options.questions} questions: equal predictions: {same}")

    requests = requests_of(*load_task(tokenizer, options.shots, options.questions))
    tokens = len(ours.tok_encode(requests[0].args[0]))
    print(f"{options.shots} shots: {len(requests)} requests of about {tokens} tokens")
    mine, wall, cpu = timed(ours.loglikelihood, requests)
    print(f"ctxext: {wall:.1f} s wall, {cpu:.1f} s CPU, all requests")
    some = requests[: options.stock]
    theirs, stock_wall, stock_cpu = timed(stock.loglikelihood, some)
    difference = max(abs(a[0] - b[0]) for a, b in zip(mine, theirs, strict=False))
    scale = len(requests) / len(some)
    print(
        f"hf: {stock_wall:.1f} s wall, {stock_cpu:.1f} s CPU for {len(some)} requests; "
        f"extrapolated to all: {stock_wall * scale / 3600:.1f} h wall"
    )
    print(f"largest difference of the log-likelihoods measured on both: {difference:.1e}")
    what = f"{options.shots}-shot TREC, 50 labels, {options.questions} questions: processor time"
    peer = f"hf, extrapolated from {len(some)} requests"
    claim(what, cpu / (stock_cpu * scale), peer, at_most=0.02)
    if not same:
        raise SystemExit("predictions differ")


if __name__ == "__main__":
    main()
