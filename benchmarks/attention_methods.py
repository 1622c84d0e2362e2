"""Time and memory of the attention kernels beside plain causal attention, in one run.

    python benchmarks/attention_methods.py [--lengths 4096,8192,16384,32768] [--only lm_infinite]

4 heads of 64, float32, inference, one thread, CPU. Time is process CPU time, the smallest of the
repetitions; memory is the peak of allocations during one call, inputs not counted. `naive` builds
the mask of the first method over all pairs of tokens and calls stock attention with it. The last
table is one decoding step: appending to the cache and attending.
"""

import argparse
import gc
import os
import time

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler is only used to count allocations

import torch
from claims import claim
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig
from transformers.cache_utils import DynamicLayer
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ctxbench.methods.cache import RotatedLayer
from ctxbench.methods.kernels.dense import visible
from ctxbench.methods.kernels.landmark import Memory, landmark_attention
from ctxbench.methods.kernels.rope import Rope
from ctxbench.methods.kernels.tiled import tiled
from ctxbench.methods.registry import get_method
from ctxbench.methods.turns import angles_of

HEADS, HEAD_DIM, SCALE = 4, 64, 64**-0.5
CONFIG = LlamaConfig(
    hidden_size=HEADS * HEAD_DIM, num_attention_heads=HEADS, max_position_embeddings=4096
)
ROPE = Rope(angles_of(LlamaRotaryEmbedding(CONFIG)))
METHODS = {
    "lm_infinite 4096/10": ("lm_infinite", {"window": 4096, "sinks": 10}),
    "lm_infinite 2048/10": ("lm_infinite", {"window": 2048, "sinks": 10}),
    "streaming_llm 2048/4": ("streaming_llm", {"window": 2048, "sinks": 4}),
    "self_extend 1024/64": ("self_extend", {"window": 1024, "group": 64}),
    "rerope 1024": ("rerope", {"window": 1024}),
    "dca 3072/512": ("dca", {"chunk": 3072, "window": 512}),
}
PLAIN = "plain causal attention"
LINEAR = [name for name in METHODS if name.startswith(("lm_infinite", "streaming_llm"))]
AIMS = {"lm_infinite 2048/10": 1, "streaming_llm 2048/4": 1, "self_extend 1024/64": 2.2}


def plan_of(name: str, length: int):
    method, options = METHODS[name]
    return get_method(method, length=max(length, 4096), **options).resolve(CONFIG).plan(CONFIG)


def tensors(length: int):
    return torch.randn(3, 1, HEADS, length, HEAD_DIM, generator=torch.Generator().manual_seed(0))


def seconds(call, repeat: int) -> float:
    times = []
    for _ in range(repeat):
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return min(times)


def peak_megabytes(call) -> float:
    """Peak of tensor allocations during a call, from the profiler's allocation events."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    held = peak = 0
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


def plain(query, key, value):
    at = torch.arange(query.shape[2])[None]
    return scaled_dot_product_attention(ROPE(query, at), ROPE(key, at), value, is_causal=True)


def naive(query, key, value):
    branch = plan_of("lm_infinite 4096/10", query.shape[2]).branches[0]
    at = torch.arange(query.shape[2])[None]
    mask = visible(branch, at, at)
    return scaled_dot_product_attention(ROPE(query, at), ROPE(key, at), value, attn_mask=mask)


def landmark(query, key, value, chunk: int = 128):
    """Chunks of 512 - 6 * 64 tokens, five blocks of 64 retrieved for each token."""
    for end in range(chunk, query.shape[2] + 1, chunk):
        some = slice(end - chunk, end)
        kwargs = {"block": 64, "scale": SCALE, "memory": Memory(5), "first": end - chunk}
        landmark_attention(ROPE, query[:, :, some], key[:, :, :end], value[:, :, :end], **kwargs)


def prefill(length: int, repeat: int, naive_up_to: int, only: str) -> dict[str, float]:
    query, key, value = tensors(length)
    calls = {"plain causal": lambda: plain(query, key, value)}
    if length <= naive_up_to:
        calls["naive mask"] = lambda: naive(query, key, value)
    for name in METHODS:
        plan = plan_of(name, length)
        calls[name] = lambda plan=plan: tiled(plan, ROPE, query, key, value, SCALE)
    calls["landmark 64/5"] = lambda: landmark(query, key, value)
    base, found = None, {}
    for name, call in calls.items():
        if only not in name and base:
            continue
        took = seconds(call, repeat)
        base = base or took
        peak = peak_megabytes(call)
        found[name] = took
        print(
            f"{length:>7} {name:<22} {took:9.3f} s {took / base:7.2f} x {peak:9.1f} MB", flush=True
        )
    return found


def decoding(length: int, steps: int = 21) -> None:
    _, key, value = tensors(length)
    new = tensors(1)

    def median(step) -> float:
        step()
        return sorted(seconds(step, 1) for _ in range(steps))[steps // 2]

    layer = DynamicLayer()
    layer.update(key, value)

    def plain_step():
        at = torch.tensor([[layer.get_seq_length()]])
        keys, values = layer.update(ROPE(new[1], at), new[2])
        scaled_dot_product_attention(ROPE(new[0], at), keys, values)

    base = median(plain_step)
    alone = median(lambda: scaled_dot_product_attention(new[0], key, value))
    print(f"{length:>7} {'plain, stock cache':<22} {base * 1e3:9.2f} ms")
    print(f"{length:>7} {'attention alone':<22} {alone * 1e3:9.2f} ms {alone / base:7.2f} x")
    for name in METHODS:
        plan, cached = plan_of(name, length), RotatedLayer()
        cached.update(key, value)

        def step(plan=plan, cached=cached):
            cached.update(new[1], new[2])
            at = torch.arange(cached.get_seq_length())[None]
            cached.attend_one(plan, ROPE, new[0], at, SCALE)

        took = median(step)
        print(f"{length:>7} {name:<22} {took * 1e3:9.2f} ms {took / base:7.2f} x", flush=True)
        claim(f"decoding step at {length}, {name}", took / base, PLAIN, at_most=1.5)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--lengths", default="4096,8192,16384,32768")
    parser.add_argument("--naive-up-to", type=int, default=8192)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--only", default="", help="methods whose name has this in it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'tokens':>7} {'prefill':<22} {'time':>11} {'of plain':>9} {'peak':>12}")
    found = {}
    for length in map(int, args.lengths.split(",")):
        found[length] = prefill(length, args.repeat, args.naive_up_to, args.only)
    longest = found[length]
    for name, took in longest.items():
        if name in AIMS:
            what = f"prefill at {length}, {name}"
            claim(what, took / longest["plain causal"], PLAIN, at_most=AIMS[name])
        if name in LINEAR and length // 2 in found:
            half = found[length // 2][name]
            claim(f"prefill, {name}: {length} tokens", took / half, f"{length // 2} tokens",
                  at_most=2.2)  # fmt: skip
    print(f"{'tokens':>7} {'one decoding step':<22} {'time':>12} {'of plain':>9}")
    decoding(16384)


if __name__ == "__main__":
    main()
