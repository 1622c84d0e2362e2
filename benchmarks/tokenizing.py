"""`ctxbench data tokenize` beside `datasets.map`: tokens per CPU second of one core, in one run.

A byte-level BPE of 32000 tokens is trained on the standard library first. Both read the same jsonl
and use one thread. Ours scans, hashes, thins, tokenises and lays out; `datasets` loads the json and
maps the same tokenizer over it in batches, as its documentation shows. Once with documents like web
pages (4000 characters), once with books (400,000).

    python benchmarks/tokenizing.py [--megabytes 40]

(Not called tokenize.py: every script beside it would import it for Python's own module.)
"""

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path

from claims import claim

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"


def make_tokenizer(folder: Path):
    """Train a byte-level BPE on the standard library; return it as transformers has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from ctxbench.core.stdlib_corpus import stdlib_files

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=32000, special_tokens=["<s>"], show_progress=False)
    tokenizer.train_from_iterator((text for _, text in stdlib_files()), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def write_documents(file: Path, characters: int, total: int) -> None:
    """Write documents of a length, cut from the standard library at random places."""
    from ctxbench.core.stdlib_corpus import stdlib_files

    text = "".join(text for _, text in stdlib_files())
    draw = random.Random(0)
    with open(file, "w", encoding="utf-8") as stream:
        for _ in range(total // characters):
            begin = draw.randrange(len(text) - characters)
            stream.write(json.dumps({"text": text[begin : begin + characters]}) + "\n")


def ours(file: Path, tokenizer, folder: Path, tokens: int) -> int:
    """Build a store; return its tokens."""
    from ctxbench.train.tokens.request import StoreRequest
    from ctxbench.train.tokens.store_writer import build_store

    request = StoreRequest(tokens=tokens, mode="none")
    return build_store([file], tokenizer, folder / "store", request)["tokens"]


def theirs(file: Path, tokenizer, folder: Path) -> int:
    """Map the tokenizer over a dataset; return its tokens."""
    import datasets

    datasets.disable_progress_bars()
    data = datasets.load_dataset(
        "json", data_files=str(file), split="train", cache_dir=str(folder / "cache")
    )
    mapped = data.map(
        lambda batch: {"input_ids": tokenizer(batch["text"])["input_ids"]},
        batched=True,
        remove_columns=["text"],
    )
    return sum(len(column) for column in mapped.with_format("numpy")["input_ids"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=40, help="of text for each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tokenizer = make_tokenizer(folder)
        for name, characters in (("pages", 4_000), ("books", 400_000)):
            file = folder / f"{name}.jsonl"
            write_documents(file, characters, options.megabytes * 10**6)
            (folder / name).mkdir()
            began = time.process_time()
            total = theirs(file, tokenizer, folder / name)
            their_rate = total / (time.process_time() - began)
            began = time.process_time()
            # one separator more for each document than theirs; a little less than all, as in use
            made = ours(file, tokenizer, folder / name, int(total * 0.97))
            our_rate = made / (time.process_time() - began)
            print(
                f"{name} of {characters:,} characters: {our_rate / 1e6:.2f} M tokens per CPU "
                f"second and core, datasets.map {their_rate / 1e6:.2f}"
            )
            what = f"tokens per processor second, {name} of {characters:,} characters"
            claim(what, our_rate / their_rate, "datasets.map", at_least=1)
            claim(f"token store, {name}", our_rate / 1e6, unit="M tokens/s/core", at_least=0.6)


if __name__ == "__main__":
    main()
