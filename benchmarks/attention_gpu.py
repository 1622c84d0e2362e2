"""Prefill and decoding of a Llama-2-7B-shaped stack beside flash attention, in bfloat16.

NEEDS CUDA; it says so and stops without. Random weights, one row of `--length` tokens read in
chunks as `ctxext` reads them, then `--steps` tokens one at a time, once by stock transformers
with PyTorch's flash attention and once by each method. The head reads the last token only. The
result is a JSON file for results/benchmarks/; times are medians of one session and come with
their ratio to flash attention.

    python benchmarks/attention_gpu.py [--length 32k] [--output DIR] [--trial]

--trial runs two small layers at 2048 tokens on whatever there is: it shows that the script works,
and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from ctxbench import extend
from ctxbench.core.lengths import parse_length

LLAMA_2_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
SMALL = {**LLAMA_2_7B, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2}
METHODS = {
    "flash attention": None,
    "lm_infinite": {},
    "streaming_llm": {},
    "self_extend": {"window": 1024, "group": 64},
    "rerope": {},
    "dca": {},
    "landmark": {},
}


def make_model(shape: dict, method: str, options: dict | None, length: int, device: str):
    """Return a model of random weights, extended unless the options are None."""
    torch.manual_seed(0)
    with torch.device(device):
        config = LlamaConfig(**shape, dtype=torch.bfloat16, attn_implementation="sdpa")
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    return model if options is None else extend(model, method, length=length, **options)


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.no_grad()
def measure(model, flash: bool, length: int, chunk: int, steps: int, device: str) -> dict:
    """Return seconds of reading the row and of one decoding step, and the highest memory."""
    ids = torch.randint(3, 1000, (1, length + steps + 1), device=device)
    backend = sdpa_kernel(SDPBackend.FLASH_ATTENTION) if flash else contextlib.nullcontext()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with backend:
        for _ in range(2):  # the first compiles and lays out memory
            cache, begin = DynamicCache(config=model.config), clock(device)
            for start in range(0, length, chunk):
                some = ids[:, start : start + chunk]
                model(some, past_key_values=cache, use_cache=True, logits_to_keep=1)
            prefill = clock(device) - begin
        times = []
        for step in range(steps + 1):
            begin = clock(device)
            some = ids[:, length + step, None]
            model(some, past_key_values=cache, use_cache=True, logits_to_keep=1)
            times.append(clock(device) - begin)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    return {"prefill_s": prefill, "step_s": statistics.median(times[1:]), "peak_gib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=parse_length, default=32768)
    parser.add_argument("--chunk", type=parse_length, default=8192, help="tokens read at once")
    parser.add_argument("--steps", type=int, default=32, help="decoding steps")
    parser.add_argument("--output", type=Path, help="folder for the JSON file")
    parser.add_argument("--trial", action="store_true", help="small and on any device")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    if not cuda and not options.trial:
        sys.exit("benchmarks/attention_gpu.py needs CUDA, and there is none here. See --trial.")
    device, shape, length = "cuda" if cuda else "cpu", LLAMA_2_7B, options.length
    if options.trial:
        shape, length = {**SMALL, "num_hidden_layers": 2, "max_position_embeddings": 512}, 2048
    results: dict[str, dict] = {}
    for method, choices in METHODS.items():
        if options.trial and method == "self_extend":
            choices = {"window": 128, "group": 8}
        model = make_model(shape, method, choices, length, device)
        flash = choices is None
        found = measure(model, flash, length, options.chunk, options.steps, device)
        base = results.get("flash attention", found)
        for name in ("prefill", "step"):
            found[f"{name}_of_flash"] = found[f"{name}_s"] / base[f"{name}_s"]
        results[method] = found
        print(method, json.dumps(found), flush=True)
        del model
        if cuda:
            torch.cuda.empty_cache()
    if options.output and not options.trial:
        about = {
            "command": " ".join(["python", *sys.argv]), "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__, "length": length, "chunk": options.chunk,
            "results": results,
        }  # fmt: skip
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "attention_gpu.json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
