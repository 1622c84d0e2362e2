"""Rolling log-likelihood beside stock HFLM: time, extra memory, error against float64.

    python benchmarks/rolling_loglikelihood.py [--tokens 16384] [--vocabulary 32000]

Each of the two runs in a process of its own, in turn, on the same random Llama in bfloat16 and the
same tokens; the peak of resident memory above the loaded model is the extra memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from claims import claim


def make_model(folder: str, vocabulary: int, length: int) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8,
        intermediate_size=704, vocab_size=vocabulary, max_position_embeddings=length,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    words = {"<s>": 0, **{f"w{i}": i for i in range(1, vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", pad_token="<s>"
    ).save_pretrained(folder)


class Peak:
    """Highest resident memory of this process, bytes, sampled every 2 ms."""

    def __enter__(self):
        import psutil

        self.process = psutil.Process()
        self.before = self.highest = self.process.memory_info().rss
        self.going = True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self):
        while self.going:
            self.highest = max(self.highest, self.process.memory_info().rss)
            time.sleep(0.002)

    def __exit__(self, *exc):
        self.going = False
        self.thread.join()
        self.extra = self.highest - self.before


def measure(kind: str, folder: str, tokens: int, vocabulary: int) -> None:
    import random

    import torch
    from lm_eval.api.instance import Instance

    draw = random.Random(0)
    text = " ".join(f"w{draw.randrange(1, vocabulary)}" for _ in range(tokens))
    request = [Instance("loglikelihood_rolling", {}, (text,), 0, ("bench", 0, 1))]
    if kind == "stock":
        from lm_eval.models.huggingface import HFLM

        lm = HFLM(pretrained=folder, dtype="bfloat16", device="cpu", max_length=tokens)
    else:
        from ctxbench.models.ctxext import CtxExt

        lm = CtxExt(pretrained=folder, dtype="bfloat16", device="cpu", length=tokens)
    short = [Instance("loglikelihood_rolling", {}, ("w1 w2 w3",), 0, ("bench", 0, 1))]
    lm.loglikelihood_rolling(short)  # warm up
    with Peak() as peak:
        begin, cpu = time.perf_counter(), time.process_time()
        (total,) = lm.loglikelihood_rolling(request)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    ids = [0, *lm.tok_encode(text)]
    with torch.no_grad():
        hidden = lm.model.base_model(torch.tensor([ids[:-1]]), use_cache=False).last_hidden_state[0]
    weight = lm.model.get_output_embeddings().weight.double()
    exact = 0.0
    for i in range(0, len(hidden), 512):
        logits = hidden[i : i + 512].double() @ weight.T
        picked = torch.tensor(ids[i + 1 : i + 1 + len(logits)])
        exact += float(logits.log_softmax(-1).gather(1, picked[:, None]).sum())
    found = {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "extra_mb": peak.extra / 2**20,
        "nats_per_token": -total / tokens,
        "error_per_token": abs(total - exact) / tokens,
    }
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        measure(options.kind, options.folder, options.tokens, options.vocabulary)
        return
    runs: dict[str, list[dict]] = {"stock": [], "ctxext": []}
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder, options.vocabulary, options.tokens)
        for _ in range(options.repeats):
            for kind, found in runs.items():
                command = [sys.executable, str(Path(__file__)), "--kind", kind, "--folder", folder]
                command += ["--tokens", str(options.tokens)]
                command += ["--vocabulary", str(options.vocabulary)]
                done = subprocess.run(
                    command, capture_output=True, text=True, check=True, env=os.environ
                )
                found.append(json.loads(done.stdout.splitlines()[-1]))
    middle = {
        kind: {key: sorted(run[key] for run in found)[len(found) // 2] for key in found[0]}
        for kind, found in runs.items()
    }
    print(f"{options.tokens} tokens, vocabulary {options.vocabulary}, bfloat16, medians")
    for kind, found in middle.items():
        print(kind.ljust(8) + "  ".join(f"{key} {value:.6g}" for key, value in found.items()))
    of_stock = {key: value / middle["stock"][key] for key, value in middle["ctxext"].items()}
    peer, of = "hf", f"rolling log-likelihood of {options.tokens} tokens, bf16"
    claim(f"{of}: wall time", of_stock["seconds"], peer, at_most=1)
    claim(f"{of}: processor time", of_stock["cpu_seconds"], peer, at_most=1)
    claim(f"{of}: extra memory", of_stock["extra_mb"], peer, at_most=0.25)
    claim(f"{of}: error per token against float64", of_stock["error_per_token"], peer)


if __name__ == "__main__":
    main()
