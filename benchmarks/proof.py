"""What the proof at attachment costs on a model of one billion parameters, cold.

    python benchmarks/proof.py [--methods yarn,lm_infinite,clex]

Llama-3.2-1B's shape (16 layers of 2048, vocabulary 128256), random, bfloat16, on two threads. Each
method is attached in a process of its own, whose first forward pass is the proof's; the time is
that of `prove` alone, wall and processor.
"""

import argparse
import subprocess
import sys
import time

from claims import claim

METHODS = ("yarn", "lm_infinite", "clex")


def measure(name: str) -> None:
    """Print the seconds of one proof: wall and processor."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ctxbench.methods.proof import prove
    from ctxbench.models.choosing import choose_method
    from ctxbench.models.loading import edited_config

    torch.set_num_threads(2)
    config = LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, vocab_size=128256, max_position_embeddings=8192,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device="cpu").eval()
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.02)
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    method, record = choose_method(config, name, length=32768)
    edited_config(model.config, method, record)
    wall, cpu = time.perf_counter(), time.process_time()
    assert prove(model, method).state == "passed"
    print(time.perf_counter() - wall, time.process_time() - cpu)


def main() -> None:
    """Measure all methods, three processes each, and print the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one)
        return
    for name in options.methods.split(","):
        runs = []
        for _ in range(3):
            line = [sys.executable, __file__, "--one", name]
            done = subprocess.run(line, capture_output=True, text=True, check=True)
            runs.append([float(each) for each in done.stdout.split()])
        wall, cpu = (sorted(side)[1] for side in zip(*runs, strict=True))
        what = f"proof of {name} on 1.2 billion parameters, cold"
        claim(f"{what}: wall time", wall, unit="s", at_most=1)
        claim(f"{what}: processor time", cpu, unit="CPU s")


if __name__ == "__main__":
    main()
