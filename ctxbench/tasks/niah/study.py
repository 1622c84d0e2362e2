"""The study's prompts as its code makes them: cut and joined in tokens, with the essays' newlines.

Code: Leooyii/LCEG@2150b59, needle/needle_in_haystack.py. The essays are tokenized, cut, made text,
tokenized again and cut again, the needle is put in after the last full stop before its depth, and
all is made text once more. Whatever the tokenizer adds at the beginning of a text (`<s> `) so
stands twice before the essays and once before the needle. The essays come in the order of the file;
there it was the order of the file system.
"""

import functools
import random
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ctxbench.tasks import specs
from ctxbench.tasks.documents import as_dataset
from ctxbench.tasks.model_window import check_task_length
from ctxbench.tasks.needle_grid import DEPTHS, Grid, check_tokenizer, record
from ctxbench.tasks.niah.haystack import load_haystack
from ctxbench.tasks.token_count import fingerprint
from ctxbench.tasks.tokenizer import count_tokens, load_tokenizer, tokenizer_name

VERSION = ["niah_lceg_study", 1]  # raise it when the same options give other samples
_CHARACTERS = 8  # of essays per token of the length: more than any tokenizer reads


def insert(context: list[int], needle: list[int], depth: int, stops: set[int]) -> tuple[list, int]:
    """Return a context with its needle, and how many tokens stand before it.

    Args:
        context: token ids.
        needle: token ids.
        depth: percent of the context before the needle.
        stops: tokens that end a sentence; the needle goes after the last one before its depth, or
            to the beginning. At 100 % it goes to the end.
    """
    at = int(len(context) * (depth / 100))  # as there, in floating point
    while depth < 100 and at and context[at - 1] not in stops:
        at -= 1
    return context[:at] + needle + context[at:], at


def prompt(grid: Grid, doc: dict[str, Any]) -> str:
    """Return a sample's prompt."""
    tokenizer = load_tokenizer(doc["tokenizer"])
    context, needle = _tokens(grid, doc["tokenizer"], doc["length"], doc["needle"], doc["data_dir"])
    found, _ = insert(context, needle, round(100 * doc["depth"]), _stops(tokenizer))
    tail = grid.frame.tail.format(question=doc["question"])
    return grid.frame.head + tokenizer.decode(found) + tail


@functools.lru_cache(maxsize=2)
def _tokens(
    grid: Grid, name: str, length: int, needle: str, data_dir: str | None
) -> tuple[list[int], list[int]]:
    """Return the tokens of the essays that leave room for the needle, and those of the needle."""
    tokenizer, essays = load_tokenizer(name), load_haystack(data_dir).text
    copies = -(-_CHARACTERS * length // len(essays))
    text = (essays * copies)[: _CHARACTERS * length]
    ids = tokenizer.encode(text, verbose=False)[:length]
    hidden = tokenizer.encode(needle)
    room = length - (grid.frame.buffer or 0) - len(hidden)
    return tokenizer.encode(tokenizer.decode(ids), verbose=False)[:room], hidden


def _stops(tokenizer) -> set[int]:
    """Return the tokens of a full stop: in Llama's vocabulary 29889 and 869, as written there."""
    texts = (".", "a.")
    return {tokenizer.encode(text, add_special_tokens=False)[-1] for text in texts}


def get_specs(
    grid: Grid,
    length: int,
    metadata: dict[str, Any],
    progress: Callable[[], object] = lambda: None,
) -> specs.SpecFile:
    """Return the specs of one task, from the cache or made now.

    Raises:
        ValueError: a chat template is asked for, which the study had none of.
    """
    if metadata.get("chat"):
        raise ValueError(
            f"{grid.leaf(length)}: metadata chat=true with fidelity=lceg; the study's prompts have "
            "no chat template. Leave out one of the two."
        )
    name, data_dir = tokenizer_name(**metadata), metadata.get("data_dir")
    key = {
        "generator": VERSION,
        "leaf": grid.leaf(length),
        "length": length,
        "fidelity": "lceg",
        "frame": asdict(grid.frame),
        "tokenizer": fingerprint(load_tokenizer(name)),
        "data": load_haystack(data_dir).digest,
    }
    report = {"tokenizer_name": name, "data_dir": data_dir, "counted": "whole prompts"}

    def make() -> tuple[list[specs.Row], dict[str, Any]]:
        rows = []
        for depth in DEPTHS:
            rows.append(_row(grid, length, name, data_dir, depth))
            progress()
        return rows, report

    return specs.get(key, make)


def _row(grid: Grid, length: int, name: str, data_dir: str | None, depth: int) -> specs.Row:
    needle, _ = grid.draw(random.Random(0), 0, None)
    tokenizer = load_tokenizer(name)
    context, hidden = _tokens(grid, name, length, needle.text, data_dir)
    _, at = insert(context, hidden, depth, _stops(tokenizer))
    row = {"run": 0, "depth": depth / 100, "position": round(at / len(context), 6)}
    row |= record(needle)
    doc = row | {"tokenizer": name, "length": length, "data_dir": data_dir}
    return row | {"tokens": count_tokens(tokenizer, prompt(grid, doc), special_tokens=True)}


def load(grid: Grid, length: int, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the samples of one task for lm-eval's `custom_dataset`.

    Raises:
        ValueError: the model's window is too short, or an option does not go with this fidelity.
        FileNotFoundError: local data are missing; the message says how to get them.
    """
    check_task_length(length, grid.leaf(length), metadata)
    found = get_specs(grid, length, metadata)
    common = {
        "grid": grid.name,
        "length": length,
        "fidelity": "lceg",
        "tokenizer": tokenizer_name(**metadata),
        "data_dir": metadata.get("data_dir"),
    }
    return as_dataset(found.rows, common=common, about=found.counted)


def recount(grid: Grid, found: specs.SpecFile, tokenizer: str | None = None) -> None:
    """Make every sample of a spec file again and compare it with what is recorded.

    Raises:
        ValueError: the tokenizer or a prompt is another than when it was made.
    """
    name = tokenizer or found.report["tokenizer_name"]
    check_tokenizer(name, found)
    for row in found.rows:
        depth, data_dir = round(100 * row["depth"]), found.report["data_dir"]
        if (made := _row(grid, found.key["length"], name, data_dir, depth)) != row:
            raise ValueError(
                f"The sample of depth {row['depth']} has {made['tokens']} tokens, but "
                f"{row['tokens']} were recorded: the local data are not those it was made with."
            )
