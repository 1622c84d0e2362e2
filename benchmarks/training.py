"""ctxbench-train beside Hugging Face's Trainer: speed, memory of the loss, losses. In one run.

The same small Llama (vocabulary 32000), the same rows of 8192 tokens in the same order, AdamW,
clipping, float32 on a CPU or bfloat16 on a GPU. Printed are ratios:

- speed: seconds for the updates between a short and a longer run, so that loading cancels. On a CPU
  these are CPU seconds of the process, which other processes disturb less than wall time;
- memory: what the loss of one row needs beyond its inputs and gradients, at its peak;
- losses: the largest difference over the updates.

    python benchmarks/training.py [--length 8192] [--steps 4] [--rounds 2]
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from claims import claim, save_numbered_words

VOCABULARY = 32000
WARM = 1
CUDA = torch.cuda.is_available()


def make_inputs(folder: Path, length: int, rows: int) -> None:
    """Write a small Llama and tokens with something to learn in them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=length,
        )
    ).save_pretrained(folder / "model")
    save_numbered_words(folder / "model", VOCABULARY)
    random = np.random.default_rng(0)
    tokens = random.zipf(1.3, length * rows) % VOCABULARY
    np.save(folder / "tokens.npy", tokens.astype(np.int64))


def run_ours(folder: Path, length: int, steps: int) -> list[float]:
    """Train with ctxbench-train; return the losses."""
    from ctxbench.train.loop import train

    with tempfile.TemporaryDirectory() as output:
        train(config(folder, length, steps, output))
        lines = (Path(output) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def config(folder: Path, length: int, steps: int, output: str):
    """Return our config of the run."""
    from ctxbench.train.config import make_config

    values = {
        "model": str(folder / "model"), "data": str(folder / "tokens.npy"), "output": output,
        "length": length, "tokens": length * steps, "batch_size": 1, "lr": 1e-3, "warmup": 0,
        "activation_checkpointing": "none", "save_every": 0, "dtype": "bf16" if CUDA else "fp32",
    }  # fmt: skip
    return make_config(None, values)


def run_theirs(folder: Path, length: int, steps: int) -> list[float]:
    """Train with transformers' Trainer on the same rows; return the losses."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    from ctxbench.train.data import open_mixture

    found: list[float] = []

    class Noting(Trainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            found.append((loss[0] if isinstance(loss, tuple) else loss).item())
            return loss

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    rows = open_mixture([str(folder / "tokens.npy")], tokenizer, seed=0)
    data = [rows.row(number, length) for number in range(steps)]
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output_dir=output,
            max_steps=steps,
            per_device_train_batch_size=1,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            max_grad_norm=1.0,
            bf16=CUDA,
            use_cpu=not CUDA,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            train_sampling_strategy="sequential",
        )
        Noting(model=model, args=arguments, train_dataset=data).train()  # type: ignore[arg-type]
        model.save_pretrained(output)  # ours writes its result too
    return found


def seconds(work, *args) -> tuple[float, list[float]]:
    """Return the time of a run (CPU time without a GPU) and its losses."""
    clock = time.perf_counter if CUDA else time.process_time
    began = clock()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        losses = work(*args)
    return clock() - began, losses


def loss_memory(kind: str, length: int, width: int = 512) -> int:
    """Return peak bytes that a loss needs beyond its inputs; run in a process of its own."""
    from ctxbench.train.loss import chunked_linear_cross_entropy

    device = "cuda" if CUDA else "cpu"
    hidden = torch.randn(length, width, device=device, requires_grad=True)
    head = torch.nn.Linear(width, VOCABULARY, bias=False, device=device)
    labels = torch.randint(0, VOCABULARY, (length,), device=device)
    hidden.grad, head.weight.grad = torch.zeros_like(hidden), torch.zeros_like(head.weight)
    before = peak_bytes()
    if kind == "ours":
        weights = torch.ones(length, device=device)
        chunked_linear_cross_entropy(hidden, head, labels, weights, torch.float32).backward()
    else:
        from transformers.loss.loss_utils import ForCausalLMLoss

        ForCausalLMLoss(head(hidden)[None], labels[None], VOCABULARY).backward()
    return peak_bytes() - before


def peak_bytes() -> int:
    """Return the highest memory so far."""
    from ctxbench.train.progress import used_memory

    return int(used_memory(torch.device("cuda" if CUDA else "cpu")) * 2**30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--loss-memory", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loss_memory:
        print(loss_memory(options.loss_memory, options.length))
        return
    memory = {}
    for kind in ("ours", "theirs"):
        line = [sys.executable, __file__, "--loss-memory", kind, "--length", str(options.length)]
        memory[kind] = int(subprocess.run(line, capture_output=True, check=True).stdout)
    speeds, difference = [], 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_inputs(folder, options.length, WARM + options.steps)
        for _ in range(options.rounds):
            taken, losses = {}, {}
            for name, work in (("ours", run_ours), ("theirs", run_theirs)):
                short, _ = seconds(work, folder, options.length, WARM)
                long, losses[name] = seconds(work, folder, options.length, WARM + options.steps)
                taken[name] = (long - short) / options.steps
            pairs = zip(losses["ours"], losses["theirs"], strict=True)
            difference = max(difference, *(abs(a - b) for a, b in pairs))
            speeds.append(taken["theirs"] / taken["ours"])
            print(f"seconds per update: ours {taken['ours']:.2f}, Trainer {taken['theirs']:.2f}")
    device = torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} thread(s)"
    print(f"{device}, length {options.length}, vocabulary {VOCABULARY}")
    print(f"loss: {memory['ours'] / 2**20:.0f} MiB and {memory['theirs'] / 2**20:.0f} MiB extra")
    of = f"training at length {options.length}"
    claim(f"{of}: tokens per second", float(np.median(speeds)), "HF Trainer", at_least=1)
    claim(f"{of}: extra memory of the loss", memory["ours"] / memory["theirs"], "HF Trainer",
          at_most=1 / 8)  # fmt: skip
    print(f"largest difference of the losses over {WARM + options.steps} updates: {difference:.1e}")


if __name__ == "__main__":
    main()
