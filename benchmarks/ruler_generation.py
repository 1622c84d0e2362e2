"""What it costs to make RULER's samples, beside lm-eval's built-in generator, in one run.

    python benchmarks/ruler_generation.py --data ../shared/data

Processor seconds of the process and its children; wall time is left out, since other work on the
machine stretches it. The built-in generator is measured on a few samples, its search for a size
apart from its cost per sample, and scaled to the same number of samples; its essays, which it would
download, are the local ones. Every part runs in a process of its own, so its memory is its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from claims import claim

BUILT_IN = ("niah_single_2", "vt", "cwe")
FEW = 3  # samples of the built-in generator that are made and measured


def seconds() -> float:
    """Return processor seconds of this process and its children so far."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(kind) for kind in kinds]
    return sum(u.ru_utime + u.ru_stime for u in used)


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(length: int, samples: int, tokenizer: str, fidelity: str, subtasks: list[str]) -> dict:
    """Make leaves through the cache; return seconds, samples and tokens per subtask."""
    from ctxbench.tasks.ruler import dataset
    from ctxbench.tasks.tokenizer import load_tokenizer

    metadata = {"tokenizer": tokenizer, "samples": samples, "fidelity": fidelity}
    load_tokenizer(tokenizer)
    baseline, found = megabytes(), {}
    for subtask in subtasks:
        start = seconds()
        rows = dataset.get_specs(subtask, length, metadata).rows
        tokens = sum(row["tokens"] for row in rows) / len(rows)
        found[subtask] = {"s": seconds() - start, "n": len(rows), "fill": tokens / length}
    return {"subtasks": found, "mb": megabytes(), "mb_before": baseline}


def built_in(length: int, samples: int, tokenizer: str, subtask: str) -> dict:
    """Make a few samples with lm-eval's generator; return seconds scaled to `samples`."""
    from transformers import AutoTokenizer

    encode = AutoTokenizer.from_pretrained(tokenizer)
    begun: list[float] = []

    def samples_begin(items, *_, **__):  # stands for the progress bar around the samples
        begun.append(seconds())
        yield from items

    start = seconds()
    if subtask == "niah_single_2":
        from lm_eval.tasks.ruler import niah_utils, prepare_niah

        prepare_niah.tqdm = samples_begin
        words = " ".join(json.loads(_essays().read_text())["text"].split()).split(" ")
        prepare_niah.generate_samples(
            words, max_seq_length=length, template=niah_utils.TEMPLATE, type_haystack="essay",
            type_needle_k="words", type_needle_v="numbers", num_samples=FEW, TOKENIZER=encode,
        )  # fmt: skip
    elif subtask == "vt":
        from lm_eval.tasks.ruler import vt_utils

        vt_utils.tqdm = samples_begin
        example = vt_utils.sys_vartrack_w_noise_random(encode, 1, 500, incremental=5)[0]
        vt_utils.sys_vartrack_w_noise_random(encode, FEW, length, icl_example=example)
    else:
        from lm_eval.tasks.ruler import cwe_utils

        cwe_utils.tqdm = samples_begin
        cwe_utils.sys_word_pair_random(FEW, length, tokenizer=encode)
    search, each = begun[-1] - start, (seconds() - begun[-1]) / FEW
    total = search + each * samples
    return {"s": total, "search": search, "each": each, "mb": megabytes()}


def _essays() -> Path:
    return Path(os.environ["CTXBENCH_DATA"]) / "PaulGrahamEssays.json"


def apart(cache: str, function: str, *arguments) -> dict:
    """Run a function of this file in a process of its own."""
    command = [sys.executable, __file__, "--call", json.dumps([function, *arguments])]
    environment = {
        **os.environ,
        "CTXBENCH_CACHE": cache,
        "TOKENIZERS_PARALLELISM": "false",
        "NLTK_DATA": str(Path(os.environ["CTXBENCH_DATA"]) / "nltk_data"),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def table(title: str, cold: dict, warm: dict) -> None:
    """Print what the 13 subtasks cost."""
    print(f"\n{title}\n{'subtask':18}{'samples':>8}{'fill':>8}{'cold s':>9}{'warm s':>9}")
    for name, row in cold["subtasks"].items():
        hot = warm["subtasks"][name]["s"]
        print(f"{name:18}{row['n']:8d}{row['fill']:8.3f}{row['s']:9.2f}{hot:9.2f}")
    totals = [sum(row["s"] for row in run["subtasks"].values()) for run in (cold, warm)]
    print(f"{'all':34}{totals[0]:9.2f}{totals[1]:9.2f}")
    aims = (60, 3, 500) if title.endswith(" tok") else (None, None, None)
    claim(f"{title}: cold", totals[0], unit="CPU s", at_most=aims[0])
    claim(f"{title}: from the cache", totals[1], unit="CPU s", at_most=aims[1])
    claim(f"{title}: memory", cold["mb"], unit="MB", at_most=aims[2])
    print(f"memory: {cold['mb']:.0f} MB, of which {cold['mb_before']:.0f} MB transformers itself")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--length", type=int, default=32768, help="of the 13 subtasks")
    parser.add_argument("--long", type=int, default=131072, help="of the comparison")
    parser.add_argument("--call", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        function, *arguments = json.loads(options.call)
        print(json.dumps(globals()[function](*arguments)))
        return
    os.environ["CTXBENCH_DATA"] = str(options.data.resolve())
    from ctxbench.tasks.ruler.subtasks import SUBTASKS

    with tempfile.TemporaryDirectory() as cache:
        for name in ("tok", "llama_tokenizer"):
            job = (options.length, options.samples, str(options.data.resolve() / name), "nvidia")
            runs = [apart(cache, "ours", *job, list(SUBTASKS)) for _ in range(2)]
            table(f"13 subtasks at {options.length} tokens, tokenizer {name}", *runs)
            sys.stdout.flush()
        print(f"\nat {options.long} tokens, {options.samples} samples, tokenizer tok")
        print(f"{'subtask':16}{'fidelity':>9}{'ours s':>9}{'built-in s':>12}{'ratio':>8}")
        tok = str(options.data.resolve() / "tok")
        for subtask in BUILT_IN:
            fidelity = "strict" if subtask == "cwe" else "nvidia"
            with tempfile.TemporaryDirectory() as empty:
                job = (options.long, options.samples, tok, fidelity, [subtask])
                mine = apart(empty, "ours", *job)["subtasks"][subtask]["s"]
            theirs = apart(cache, "built_in", options.long, options.samples, tok, subtask)
            print(
                f"{subtask:16}{fidelity:>9}{mine:9.2f}{theirs['s']:12.1f}{theirs['s'] / mine:8.0f}"
                f"   (search {theirs['search']:.1f} s, then {theirs['each']:.2f} s a sample; "
                f"{theirs['mb']:.0f} MB)",
                flush=True,
            )
            what = f"{subtask}, {options.samples} samples at {options.long}, {fidelity}: CPU time"
            claim(what, mine / theirs["s"], "lm-eval's generator, scaled", at_most=0.02)


if __name__ == "__main__":
    main()
