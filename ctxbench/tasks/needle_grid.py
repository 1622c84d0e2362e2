"""Needles over a grid of depths: exact lengths, specs in the cache, prompts made from them.

A *run* is one stretch of haystack and one needle. Its ten samples differ in nothing but the place
of the needle, so depths compare, a prompt shares its beginning with the next deeper one, and all
have one length (to the token or two that a joint costs), which lets methods whose frequencies
depend on the length share it too. A longer task goes on where the shorter one stops.

The haystack is whole sentences, as many as fit; the needle stands at the last sentence border at
or before its depth.
"""

import functools
import json
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal, Protocol

from ctxbench.core.lengths import length_name
from ctxbench.core.settings import Range, Whole, read_settings
from ctxbench.tasks import specs
from ctxbench.tasks.chat import chat_of
from ctxbench.tasks.documents import as_dataset
from ctxbench.tasks.model_window import check_task_length
from ctxbench.tasks.token_count import (
    PromptPart,
    TokenCounter,
    fingerprint,
    make_recounted,
    render,
    word_run,
)
from ctxbench.tasks.tokenizer import load_tokenizer, tokenizer_name

DEPTHS = tuple(round(100 * i / 9) for i in range(10))
"""Percent of the haystack's tokens before the needle: 0 11 22 33 44 56 67 78 89 100."""
VERSION = 1  # of the generator: raise it when the same options give other samples
_BUFFER_VERSION = 2  # of frames with a buffer


class Haystack(Protocol):
    """Words without end, and where sentences begin."""

    digest: str

    def words_to(self, end: int) -> list[str]:
        """Return `end` words or more; a list that only grows."""
        ...

    def sentence_starts(self, start: int, end: int) -> list[int]:
        """Return the words from `start` to before `end` at which a sentence begins."""
        ...


@dataclass(frozen=True)
class Needle:
    """What is hidden and asked for.

    Attributes:
        text: as it is hidden.
        question: put into the frame's end.
        answer: what a right response holds.
        kind: of needle, for the record.
    """

    text: str
    question: str
    answer: str
    kind: str


@dataclass(frozen=True)
class Frame:
    """What stands around the haystack.

    Attributes:
        head: before it.
        tail: after it, with `{question}`.
        separator: between haystack and needle.
        new_tokens: that the answer may take.
        buffer: tokens of the length that the haystack and its needle leave free for all else, if
            that is enough; None: whatever all else takes.
    """

    head: str
    tail: str
    separator: str
    new_tokens: int
    buffer: int | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may choose in `--metadata`.

    Attributes:
        samples: one per depth and run.
        seed: of needles and stretches.
        chat: count and place the tokenizer's chat template (give --apply_chat_template too).
        fidelity: lceg makes the prompts of LCEG's own grid as its code does.
        data_dir: searched for local data before `CTXBENCH_DATA`.
    """

    samples: Annotated[int, Range(least=len(DEPTHS), multiple_of=len(DEPTHS))] = 50
    seed: Whole = 42
    chat: bool = False
    fidelity: Literal["nvidia", "lceg", "strict"] = "nvidia"
    data_dir: str | None = None


@dataclass(frozen=True)
class GridSettings:
    """What the samples of one task depend on besides its grid, length and tokenizer.

    Attributes:
        samples: a multiple of the ten depths.
        seed: of needles and stretches.
        chat: text before and after the user's message in the chat template; empty without one.
    """

    samples: int = 50
    seed: int = 42
    chat: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Grid:
    """A family of tasks.

    Attributes:
        name: the task's, before the length.
        frame: around the haystack.
        haystack: loads it, given `data_dir`.
        draw: returns the needle and the haystack's first word of a run, given a generator, the
            number of the run and the haystack.
        samples: fixed, or None where the user chooses.
    """

    name: str
    frame: Frame
    haystack: Callable[[str | None], Haystack]
    draw: Callable[[random.Random, int, Any], tuple[Needle, int]]
    samples: int | None = None

    def leaf(self, length: int) -> str:
        """Return the name of the task of a length."""
        return f"{self.name}_{length_name(length)}"


# ------------------------------------------------------------------ one prompt


def prompt_parts(
    frame: Frame, settings: GridSettings, words: list[str], row: dict
) -> list[PromptPart]:
    """Return the parts of a sample's prompt."""
    before, after = settings.chat
    tail = frame.tail.format(question=row["question"])
    return [before + frame.head, *_context(frame, words, row), tail + after]


def _context(frame: Frame, words: list[str], row: dict) -> list[PromptPart]:
    """Return haystack and needle."""
    start, at, end = row["start"], row["at"], row["end"]
    pieces = [
        word_run(words, start, at) if at > start else [],
        [row["needle"]],
        word_run(words, at, end) if end > at else [],
    ]
    parts: list[PromptPart] = []
    for number, piece in enumerate(filter(None, pieces)):
        parts += [frame.separator, *piece] if number else piece
    return parts


# --------------------------------------------------------------------- one run


def make_run(
    grid: Grid,
    settings: GridSettings,
    length: int,
    run: int,
    haystack: Haystack,
    counter: TokenCounter,
) -> Iterator[dict[str, Any]]:
    """Yield the samples of one run, one per depth.

    Raises:
        ValueError: the needle and its question do not fit.
    """
    rng = random.Random(f"{settings.seed}/{grid.name}/{run}")
    needle, start = grid.draw(rng, run, haystack)
    frame = grid.frame
    # A word has a token or more, so no longer stretch can fit.
    words = haystack.words_to(start + length)
    borders = [start, *haystack.sentence_starts(start + 1, start + length)]
    offsets = counter.offsets(words, borders)  # for placing, not for lengths
    row = {"start": start, **record(needle)}

    def samples(last: int) -> list[dict[str, Any]]:
        """Return all samples of the haystack that ends at a border."""
        made = []
        for depth in DEPTHS:
            place = min(bisect_right(offsets, offsets[last] * depth / 100) - 1, last)
            found = row | {"run": run, "depth": depth / 100, "at": borders[place]}
            found["end"] = borders[last]
            found["position"] = round(offsets[place] / max(offsets[last], 1), 6)
            found["tokens"] = counter.count(prompt_parts(frame, settings, words, found))
            made.append(found)
        return made

    def excess(last: int) -> int:
        """Return the tokens beyond what is allowed when the needle stands last."""
        found = row | {"at": borders[last], "end": borders[last]}
        return _used(frame, settings, words, found, counter) - length

    # Borders only add tokens; joints differ between depths by a token or two.
    last = bisect_right(range(len(borders)), 0, key=excess) - 1
    while last > 0:
        made = samples(last)
        if all(_used(frame, settings, words, each, counter) <= length for each in made):
            yield from made
            return
        last -= 1
    raise ValueError(
        f"{grid.leaf(length)} cannot hold its needle and a sentence of haystack in {length} tokens "
        "of this tokenizer. Take a longer task."
    )


def _used(frame: Frame, settings: GridSettings, words: list[str], row: dict, counter) -> int:
    """Count the tokens that are held against the length."""
    whole = counter.count(prompt_parts(frame, settings, words, row)) + frame.new_tokens
    if frame.buffer is None:
        return whole
    # A tokenizer of bytes may need more than the buffer.
    return max(whole, counter.count(_context(frame, words, row)) + frame.buffer)


def record(needle: Needle) -> dict[str, str]:
    """Return a needle as it stands in a sample."""
    fields = asdict(needle)
    return {"needle": fields.pop("text"), **fields}


# -------------------------------------------------------------------- one task


def settings_of(grid: Grid, metadata: dict[str, Any]) -> GridSettings:
    """Take the options out of lm-eval's metadata, which holds the model's arguments too.

    Raises:
        ValueError: a value is not allowed.
    """
    options = read_settings(Options, metadata, "Metadata", strict=False)
    settings = GridSettings(samples=grid.samples or options.samples, seed=options.seed)
    if options.chat:
        settings = replace(settings, chat=chat_of(metadata, prefixed=False))
    return settings


def get_specs(
    grid: Grid,
    length: int,
    metadata: dict[str, Any],
    settings: GridSettings,
    progress: Callable[[], object] = lambda: None,
) -> specs.SpecFile:
    """Return the specs of one task, from the cache or made now."""
    name = tokenizer_name(**metadata)
    haystack = grid.haystack(metadata.get("data_dir"))
    key = {
        "generator": ["needle_grid", VERSION if grid.frame.buffer is None else _BUFFER_VERSION],
        "leaf": grid.leaf(length),
        "length": length,
        "frame": asdict(grid.frame),
        "bos": "",  # a setting of 0.1.0 whose empty value was the usual one: its caches go on
        **asdict(settings),
        "chat": list(settings.chat),
        "tokenizer": fingerprint(load_tokenizer(name)),
        "data": haystack.digest,
    }

    def make(counter: TokenCounter) -> tuple[list[specs.Row], dict[str, Any]]:
        rows = []
        for run in range(settings.samples // len(DEPTHS)):
            for row in make_run(grid, settings, length, run, haystack, counter):
                rows.append(row)
                progress()
        return rows, {"tokenizer_name": name}

    def count(counter: TokenCounter, row: specs.Row) -> int:
        return counter.count(prompt_parts(grid.frame, settings, haystack.words_to(row["end"]), row))

    return specs.get(key, lambda: make_recounted(make, count, _counter(name, True)))


@functools.lru_cache(maxsize=4)
def _counter(tokenizer: str, special_tokens: bool) -> TokenCounter:
    return TokenCounter(load_tokenizer(tokenizer), special_tokens)


def load(
    grid: Grid, length: int, metadata: dict[str, Any], settings: GridSettings
) -> dict[str, Any]:
    """Return the samples of one task for lm-eval's `custom_dataset`.

    Raises:
        ValueError: the model's window is too short, or the needle does not fit.
        FileNotFoundError: local data are missing; the message says how to get them.
    """
    check_task_length(length, grid.leaf(length), metadata)
    found = get_specs(grid, length, metadata, settings)
    common = {
        "grid": grid.name,
        "length": length,
        "setting": json.dumps(asdict(settings)),
        "data_dir": metadata.get("data_dir"),
    }
    return as_dataset(found.rows, common=common, about=found.counted)


def prompt(grid: Grid, doc: dict[str, Any]) -> str:
    """Return a sample's prompt."""
    settings = _settings(doc["setting"])
    words = grid.haystack(doc["data_dir"]).words_to(doc["end"])
    before, after = settings.chat  # the harness applies the template itself
    text = render(prompt_parts(grid.frame, settings, words, doc))
    return text[len(before) : len(text) - len(after)]


@functools.lru_cache(maxsize=32)
def _settings(text: str) -> GridSettings:
    fields = json.loads(text)
    return GridSettings(**fields | {"chat": tuple(fields["chat"])})


def report_skips(found: specs.SpecFile) -> None:
    """Do nothing, for `ctxbench data`: every sample is made, or the task is an error."""


def recount(grid: Grid, found: specs.SpecFile, tokenizer: str | None = None) -> None:
    """Write every prompt of a spec file and compare its tokens with those recorded.

    Raises:
        ValueError: a prompt has other tokens than when it was made.
    """
    name = tokenizer or found.report["tokenizer_name"]
    check_tokenizer(name, found)
    settings = GridSettings(
        **{field: found.key[field] for field in ("samples", "seed")},
        chat=tuple(found.key["chat"]),
    )
    counter = TokenCounter(load_tokenizer(name), special_tokens=True, additive=False)
    haystack = grid.haystack(None)
    for row in found.rows:
        parts = prompt_parts(grid.frame, settings, haystack.words_to(row["end"]), row)
        if (tokens := counter.count(parts)) != row["tokens"]:
            raise ValueError(
                f"The sample of run {row['run']}, depth {row['depth']} has {tokens} tokens, but "
                f"{row['tokens']} were recorded: the local data are not those it was made with."
            )


def check_tokenizer(name: str, found: specs.SpecFile) -> None:
    """Refuse a tokenizer that a spec file was not made with.

    Raises:
        ValueError: it was not.
    """
    if fingerprint(load_tokenizer(name)) != found.key["tokenizer"]:
        raise ValueError(
            f"The tokenizer {name} is not the one this was made with. Give it with --tokenizer."
        )
