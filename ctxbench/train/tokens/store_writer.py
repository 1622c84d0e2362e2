"""Building a token store in two passes: choose documents by their content, tokenise the chosen.

    scan      every document once: its key and its length; short ones are thinned out here,
              before anything is tokenised
    tokenise  of each source the first documents in the order of their keys, in rounds, until their
              real tokens fill its budget
    lay out   sources evenly over the store; the last document of each is cut to fill exactly

What a pass has finished is committed by rename in the folder `work`, and used when the build is
started again. The result depends on the documents, the tokenizer and the request: not on the
order of files, the number of workers or interruptions.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxbench.core.atomic_file import replacing, write_atomically
from ctxbench.core.folder_lock import only_process
from ctxbench.train.sources import (
    encode_documents,
    encoder,
    separator,
    token_dtype,
    tokenizer_stamp,
)
from ctxbench.train.tokens.documents import (
    HISTOGRAM_BINS,
    Part,
    Scanned,
    length_bin,
    parts_of,
    scan,
)
from ctxbench.train.tokens.layout import Layout, Pieces, choose_next, lay_out
from ctxbench.train.tokens.request import StoreRequest
from ctxbench.train.tokens.store import DOCUMENTS, META, VERSION, shard_name
from ctxbench.train.word_encoder import WordEncoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

SHARD_TOKENS = 2**27
Progress = Callable[[str, int, int], None]
"""Told what is done, how many steps of it are finished, of how many."""


def build_store(
    files: Sequence[Path],
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    request: StoreRequest,
    *,
    text: str = "text",
    label: str = "meta.redpajama_set_name",
    workers: int = 1,
    shard_tokens: int = SHARD_TOKENS,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Build a token store, or go on with one, and return its description (`meta.json`).

    Args:
        files: with documents, see `record_files`.
        tokenizer: a fast one.
        output: folder of the store.
        request: what it is to hold.
        text: column of the text.
        label: column of the source's name; dots go into objects.
        workers: processes; each keeps one core busy.
        shard_tokens: tokens in a file of the store.
        progress: told what is done.

    Raises:
        ValueError: the folder holds another store, another process works on it, or the documents
            cannot fill the request.
    """
    backend = encoder(tokenizer)
    about = {
        "version": VERSION,
        "request": request.as_dict(),
        "text": text,
        "label": label,
        "tokenizer": tokenizer_stamp(backend),
        "dtype": np.dtype(token_dtype(len(tokenizer))).name,
        "separator": separator(tokenizer),
        "shard_tokens": shard_tokens,
        "files": sorted([file.name, file.stat().st_size] for file in files),
    }
    with only_process(output, "ctxbench data tokenize"):
        return _build(files, backend, output, request, about, workers, progress)


def _build(
    files: Sequence[Path],
    backend: Tokenizer,
    output: Path,
    request: StoreRequest,
    about: dict[str, Any],
    workers: int,
    progress: Progress,
) -> dict[str, Any]:
    """Build the store that `about` describes, or go on with it."""
    work = output / "work"
    if (output / META).exists():
        found = json.loads((output / META).read_text(encoding="utf-8"))
        _check_same(output, {name: found.get(name) for name in about}, about)
        shutil.rmtree(work, ignore_errors=True)  # killed between its last two steps
        return found
    work.mkdir(parents=True, exist_ok=True)
    stamp = {**about, "written": sorted(f"{f} {f.stat().st_mtime_ns}" for f in files)}
    if (work / "request.json").exists():
        found = json.loads((work / "request.json").read_text(encoding="utf-8"))
        _check_same(output, found, json.loads(json.dumps(stamp)))
    backend.save(str(work / "tokenizer.json"))
    write_atomically(work / "request.json", json.dumps(stamp).encode())

    job = Job(
        work,
        request,
        parts_of(sorted(files), about["text"], about["label"]),
        about["dtype"],
        workers,
    )
    scanned, lengths = job.scan(progress)
    pieces = job.tokenise(scanned, about["separator"], progress)
    layout = lay_out(request, scanned, pieces)
    job.write(layout, output, about["shard_tokens"], progress)
    _save_array(output / DOCUMENTS, layout.documents)
    meta = {**about, **_describe(request, layout, lengths)}
    write_atomically(output / META, (json.dumps(meta, indent=2) + "\n").encode())
    shutil.rmtree(work)
    return meta


@dataclass(frozen=True)
class Job:
    """One build under way.

    Attributes:
        work: folder of what is finished.
        request: what the store is to hold.
        parts: of the corpus.
        dtype: of the tokens.
        workers: processes.
    """

    work: Path
    request: StoreRequest
    parts: list[Part]
    dtype: str
    workers: int

    def scan(self, progress: Progress) -> tuple[Scanned, dict[str, list[int]]]:
        """Scan all parts; return the kept documents, and the lengths of all by source."""
        files = [self.work / f"scan-{number:05d}.npz" for number in range(len(self.parts))]
        tasks = [
            (_scan_part, (part, self.request, file))
            for part, file in zip(self.parts, files, strict=True)
            if not file.exists()
        ]
        self._run("scan", tasks, progress)
        found, part, lengths = [], [], {}
        loaded = [np.load(file) for file in files]
        names = sorted({name for one in loaded for name in one["names"].tolist()})
        for number, one in enumerate(loaded):
            documents, here = one["documents"].copy(), one["names"].tolist()
            order = np.array([names.index(name) for name in here], dtype=np.int32)
            documents["source"] = order[documents["source"]] if len(documents) else 0
            found.append(documents)
            part.append(np.full(len(documents), number, dtype=np.int32))
            for name, counts in zip(here, one["lengths"], strict=True):
                lengths[name] = (np.array(lengths.get(name, 0)) + counts).tolist()
        return Scanned(np.concatenate(found), np.concatenate(part), names), lengths

    def tokenise(self, scanned: Scanned, separator: list[int], progress: Progress) -> Pieces:
        """Tokenise documents in rounds until every budget is filled."""
        count = len(scanned.documents)
        pieces = Pieces(*(np.full(count, -1, dtype=np.int64) for _ in range(3)), files=[])
        number = 0
        while len(wanted := choose_next(self.request, scanned, pieces)):
            number += 1
            tasks, made = [], []
            for part in np.unique(scanned.part[wanted]):
                some = wanted[scanned.part[wanted] == part]
                some = some[np.argsort(scanned.documents["number"][some])]
                file = self.work / f"piece-{number:02d}-{part:05d}.bin"
                made.append((some, file))
                numbers = scanned.documents["number"][some]
                if not file.with_suffix(".npy").exists():
                    task = (self.parts[part], numbers, separator, self.dtype, file)
                    tasks.append((_tokenise_part, task))
            self._run(f"tokenise, round {number}", tasks, progress)
            for some, file in made:
                lengths = np.load(file.with_suffix(".npy"))
                pieces.tokens[some], pieces.file[some] = lengths, len(pieces.files)
                pieces.start[some] = np.cumsum(lengths) - lengths
                pieces.files.append(file)
        return pieces

    def write(self, layout: Layout, output: Path, shard_tokens: int, progress: Progress) -> None:
        """Write the shards of the store."""
        tasks = []
        for number, begin in enumerate(range(0, layout.total, shard_tokens)):
            file = output / shard_name(number)
            if not file.exists():
                end = min(begin + shard_tokens, layout.total)
                task = (list(layout.segments(begin, end)), self.dtype, file)
                tasks.append((_write_shard, task))
        self._run("write", tasks, progress)

    def _run(self, what: str, tasks: list[tuple[Callable, tuple]], progress: Progress) -> None:
        """Run functions, each of which commits a file, in this process or in others."""
        progress(what, 0, len(tasks))
        if self.workers == 1:
            with _one_thread():
                for done, (function, arguments) in enumerate(tasks, 1):
                    function(*arguments)
                    progress(what, done, len(tasks))
        elif tasks:
            with _one_thread(), ProcessPoolExecutor(self.workers, get_context("spawn")) as pool:
                futures = [pool.submit(function, *arguments) for function, arguments in tasks]
                for done, future in enumerate(as_completed(futures), 1):
                    future.result()
                    progress(what, done, len(tasks))


# ------------------------------------------------------- what the workers do


def _scan_part(part: Part, request: StoreRequest, file: Path) -> None:
    documents, lengths = scan(part, request)
    counts = np.array(list(lengths.values()), dtype=np.int64).reshape(-1, HISTOGRAM_BINS)
    names = np.array(list(lengths), dtype=str)
    with replacing(file, synced=False) as stream:
        np.savez(stream, documents=documents, names=names, lengths=counts)


def _tokenise_part(part: Part, numbers: np.ndarray, separator, dtype: str, file: Path) -> None:
    words = _word_encoder(file.with_name("tokenizer.json"))
    wanted = set(numbers.tolist())
    found = enumerate(part.documents())
    texts = ((where, text) for number, (where, text, _) in found if number in wanted)
    lengths = []
    with replacing(file, synced=False) as stream:
        for ids in encode_documents(texts, words, separator):
            stream.write(np.asarray(ids, dtype=dtype).tobytes())
            lengths.append(len(ids))
    _save_array(file.with_suffix(".npy"), np.array(lengths, dtype=np.int64))  # both are whole


def _write_shard(segments: list[tuple[Path, int, int]], dtype: str, file: Path) -> None:
    opened: dict[Path, np.ndarray] = {}
    with replacing(file) as stream:
        for piece, start, count in segments:
            if piece not in opened:
                opened[piece] = np.memmap(piece, dtype=dtype, mode="r")
            stream.write(opened[piece][start : start + count].tobytes())


def _save_array(file: Path, array: np.ndarray) -> None:
    with replacing(file) as stream:
        np.save(stream, array)


@lru_cache(maxsize=1)
def _word_encoder(file: Path) -> WordEncoder:
    from tokenizers import Tokenizer

    return WordEncoder(Tokenizer.from_file(str(file)))


@contextmanager
def _one_thread():
    """Keep `tokenizers` to one thread in this process and those it starts."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


# ---------------------------------------------------------------- describing


def _describe(
    request: StoreRequest, layout: Layout, lengths: dict[str, list[int]]
) -> dict[str, Any]:
    """Return what the store holds: tokens and documents by source, lengths before and after."""
    sources = {}
    for index, name in enumerate(layout.names):
        mine = layout.documents[layout.documents["source"] == index]
        after = [0] * HISTOGRAM_BINS
        for tokens in mine["length"].tolist():
            after[length_bin(tokens)] += 1
        tokens = int(mine["length"].sum())
        sources[name] = {
            "tokens": tokens,
            "share": tokens / layout.total,
            "documents": len(mine),
            "documents_scanned": sum(lengths[name]),
            "scanned_by_log2_tokens": _trimmed(lengths[name]),
            "taken_by_log2_tokens": _trimmed(after),
        }
    asked = {k: v / request.tokens for k, v in request.budgets().items()} if request.mix else None
    return {"tokens": layout.total, "content": layout.content, "asked": asked, "sources": sources}


def _trimmed(counts: Iterable[int]) -> list[int]:
    return np.trim_zeros(np.array(list(counts)), "b").tolist()


def _check_same(output: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    for name, value in asked.items():
        if found.get(name) != value:
            raise ValueError(
                f"{output} holds another store: {name} is {found.get(name)} there, {value} was "
                "asked for. Ask for the same, to go on with it, or give another --output."
            )
