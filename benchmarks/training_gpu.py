"""ctxbench-train on a GPU beside Hugging Face's Trainer: tokens per second, causal MFU, memory.

NEEDS CUDA; it says so and stops without. For each length the largest of some Llama shapes that fits
by the estimate is trained a few updates of one row: all weights, and LongLoRA (adapters and shifted
groups), by ctxbench-train, and all weights by Trainer on the same rows (bfloat16 autocast over
float32 weights, gradient checkpointing, fused AdamW). Causal MFU counts attention once, causal, and
nothing that is computed again. Each run is a process of its own. The result is a JSON file for
results/benchmarks/ and lines of text; speed and memory beside Trainer are ratios of one session.

    python benchmarks/training_gpu.py [--lengths 8k 32k 64k] [--steps 6] [--output DIR] [--plan]

--plan prints which shapes would be taken, and needs no GPU.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from claims import save_numbered_words

VOCABULARY = 32000
WARM = 2
"""Updates left out of the speed: kernels are chosen and memory is laid out in them."""
SHAPES = {  # width, feed-forward, layers, heads; 7B is Llama-2-7B
    "7B": (4096, 11008, 32, 32),
    "5B": (4096, 11008, 24, 32),
    "3B": (3200, 8640, 26, 25),
    "1.5B": (2048, 5504, 28, 16),
    "0.5B": (1024, 2816, 36, 8),
}
KINDS = {
    "full": {"method": "pi"},
    "longlora": {"method": "longlora"},
    "trainer": {"method": "pi"},
}


def write_model(folder: Path, shape: str, length: int) -> None:
    """Write the config of a Llama; weights are random, made where it is trained."""
    from transformers import LlamaConfig

    width, inner, layers, heads = SHAPES[shape]
    LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=inner,
        num_hidden_layers=layers, num_attention_heads=heads, max_position_embeddings=4096,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip
    save_numbered_words(folder, VOCABULARY)


def make_config(folder: Path, kind: str, length: int, steps: int):
    """Return our config of a run."""
    from ctxbench.train.config import make_config

    values = {
        "model": str(folder / "model"), "data": str(folder / "tokens.npy"), "init": "random",
        "output": str(folder / "out"), "length": length, "tokens": length * steps, "batch_size": 1,
        "warmup": 0, "save_every": 0, **KINDS[kind],
    }  # fmt: skip
    return make_config(None, values)


def largest_shape(folder: Path, kind: str, length: int, memory: float) -> tuple[str, float] | None:
    """Return the largest shape whose estimate fits, and the estimate in bytes."""
    from ctxbench.train.cost import training_cost

    for shape in SHAPES:
        write_model(folder / "model", shape, length)
        needed = sum(training_cost(make_config(folder, kind, length, 1)).memory.values())
        if needed < 0.95 * memory:
            return shape, needed
    return None


def run_ours(config) -> list[float]:
    """Train without writing the model; return seconds of each update."""
    from ctxbench.train import loop

    loop.export_model = lambda *_args, **_kwargs: None
    loop.train(config)
    lines = (Path(config.output) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["seconds"] for line in lines]


def run_theirs(config) -> list[float]:
    """Train the same model on the same rows with transformers' Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from ctxbench.train.data import open_mixture
    from ctxbench.train.model import build_model

    class Clock(TrainerCallback):
        def __init__(self):
            self.times = []

        def on_step_begin(self, *_args, **_kwargs):
            torch.cuda.synchronize()
            self.times.append(-time.perf_counter())

        def on_step_end(self, *_args, **_kwargs):
            torch.cuda.synchronize()
            self.times[-1] += time.perf_counter()

    model, tokenizer = build_model(config)
    rows = open_mixture(config.data, tokenizer, seed=0)
    data = [rows.row(number, config.length) for number in range(config.steps)]
    clock = Clock()
    arguments = TrainingArguments(
        output_dir=config.output, max_steps=config.steps, per_device_train_batch_size=1,
        learning_rate=config.lr, lr_scheduler_type="constant", optim="adamw_torch_fused",
        max_grad_norm=1.0, bf16=True, gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False}, report_to="none",
        save_strategy="no", logging_strategy="no", disable_tqdm=True,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=data, callbacks=[clock]).train()  # type: ignore[arg-type]
    return clock.times


def one_run(kind: str, folder: Path, length: int, steps: int) -> None:
    """Print seconds of the updates after warm-up and the peak memory, as JSON."""
    config = make_config(folder, kind, length, WARM + steps)
    seconds = (run_theirs if kind == "trainer" else run_ours)(config)[WARM:]
    print(json.dumps({"seconds": seconds, "memory": torch.cuda.max_memory_allocated()}))


def measure(kind: str, folder: Path, length: int, steps: int) -> dict:
    """Return speed, MFU and memory of a kind of run; its error if it has one."""
    from ctxbench.train.cost import peak_flops, training_cost

    line = [sys.executable, __file__, "--run", kind, "--folder", str(folder)]
    line += ["--lengths", str(length), "--steps", str(steps)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:300]}
    found = json.loads(done.stdout.strip().splitlines()[-1])
    cost = training_cost(make_config(folder, kind, length, 1))
    rate = length / statistics.median(found["seconds"])
    peak = peak_flops(torch.device("cuda"))
    return {
        "tokens_per_second": rate,
        "causal_mfu": rate * cost.flops / peak if peak else None,
        "peak_gib": found["memory"] / 2**30,
        "estimated_gib": sum(cost.memory.values()) / 2**30,
    }


def main() -> None:
    from ctxbench.core.lengths import parse_length

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", nargs="+", type=parse_length, default=[8192, 32768, 65536])
    parser.add_argument("--steps", type=int, default=6, help="updates that are timed")
    parser.add_argument("--output", type=Path, help="folder for the JSON file")
    parser.add_argument("--plan", action="store_true", help="print the shapes for 139 GiB and stop")
    parser.add_argument("--run", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        one_run(options.run, options.folder, options.lengths[0], options.steps)
        return
    cuda = torch.cuda.is_available()
    if not cuda and not options.plan:
        sys.exit("benchmarks/training_gpu.py needs CUDA, and there is none here. See --plan.")
    memory = torch.cuda.get_device_properties(0).total_memory if cuda else 139 * 2**30
    results = []
    for length in options.lengths:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            found = largest_shape(folder, "full", length, memory)
            if found is None:
                print(f"length {length}: no shape fits {memory / 2**30:.0f} GiB")
                continue
            print(f"length {length}: shape {found[0]}, estimated {found[1] / 2**30:.0f} GiB")
            if options.plan:
                continue
            import numpy as np

            tokens = np.random.default_rng(0).integers(0, VOCABULARY, 10 * length)
            np.save(folder / "tokens.npy", tokens)
            for kind in KINDS:
                result = measure(kind, folder, length, options.steps)
                results.append({"length": length, "shape": found[0], "kind": kind, **result})
                print("  ", json.dumps(results[-1]))
    if options.output and results:
        about = {
            "command": " ".join(["python", *sys.argv]), "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__, "results": results,
        }  # fmt: skip
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "training_gpu.json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
