"""Shared prefixes beside stock HFLM: many labels on one context, many questions on one text.

    python benchmarks/shared_prefix.py [--context 4096] [--labels 50] [--stock-labels 5]

Both run in one process on the same small random Llama in float32. Stock time for the labels is
extrapolated from `--stock-labels` of them, each of which it pays for in full.
"""

import argparse
import random
import tempfile
import time

from claims import claim
from lm_eval.api.instance import Instance
from rolling_loglikelihood import make_model


def timed(function, *arguments):
    begin = time.process_time()
    result = function(*arguments)
    return time.process_time() - begin, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--labels", type=int, default=50)
    parser.add_argument("--stock-labels", type=int, default=5)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=32000)
    options = parser.parse_args()
    from lm_eval.models.huggingface import HFLM

    from ctxbench.models.ctxext import CtxExt

    draw = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{draw.randrange(1, options.vocabulary)}" for _ in range(count))

    with tempfile.TemporaryDirectory() as folder:
        length = options.context + 128
        make_model(folder, options.vocabulary, length)
        common = {"pretrained": folder, "dtype": "float32", "device": "cpu"}
        stock = HFLM(**common, max_length=length)
        ours = CtxExt(**common, length=length)
    context = words(options.context)
    labels = [
        Instance("loglikelihood", {}, (context, f" {words(3)}"), i, ("labels", 0, 1))
        for i in range(options.labels)
    ]
    some = labels[: options.stock_labels]
    slow, theirs = timed(stock.loglikelihood, some)
    fast, found = timed(ours.loglikelihood, labels)
    error = max(abs(a[0] - b[0]) for a, b in zip(theirs, found, strict=False))
    slow *= options.labels / options.stock_labels
    print(f"{options.labels} labels of 3 tokens on a context of {options.context}, float32:")
    print(f"  stock {slow:.2f} CPU s (from {options.stock_labels}), ctxext {fast:.2f} CPU s")
    print(f"  largest difference {error:.2g} nat")
    what = f"{options.labels} labels on one context of {options.context} tokens: processor time"
    claim(what, fast / slow, "hf", at_most=0.05)
    arguments = {"until": [], "max_gen_toks": 16, "do_sample": False}
    questions = [
        Instance(
            "generate_until", {}, (f"{context} {words(20)}", arguments), i, ("questions", i, 1)
        )
        for i in range(options.questions)
    ]
    slow, theirs = timed(stock.generate_until, questions)
    fast, found = timed(ours.generate_until, questions)
    print(f"{options.questions} questions of 20 tokens on it, 16 tokens generated each:")
    print(f"  stock {slow:.2f} CPU s, ctxext {fast:.2f} CPU s")
    what = f"{options.questions} generations on it: processor time"
    claim(what, fast / slow, "hf", at_most=0.5)
    print(f"  equal outputs: {sum(a == b for a, b in zip(theirs, found, strict=True))}")


if __name__ == "__main__":
    main()
