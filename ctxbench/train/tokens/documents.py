"""Documents of a corpus, named by their content, so that no order of files or workers matters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctxbench.core.text_files import byte_ranges, read_records, text_of
from ctxbench.train.tokens.request import CHARACTERS_PER_TOKEN, StoreRequest, source_name

RANGE_BYTES = 2**28
"""A plain jsonl file is read in parts of this size, by different workers."""
SCANNED = np.dtype(
    [
        ("order", "<u8"),  # pseudo-random order of the documents of a source
        ("tie", "<u8"),
        ("number", "<i8"),  # among the records of its part
        ("characters", "<i8"),
        ("source", "<i4"),  # index into the names of its part
    ]
)
HISTOGRAM_BINS = 32
"""Documents are counted by floor(log2(tokens))."""


@dataclass(frozen=True)
class Part:
    """Some records of one file, read by one worker at a time.

    Attributes:
        file: where they are.
        begin: first byte.
        end: one past the last byte; None for the end of the file.
        text: column of the text.
        label: column of the source's name; dots go into objects.
    """

    file: Path
    begin: int
    end: int | None
    text: str
    label: str

    def documents(self) -> Iterator[tuple[str, str, str]]:
        """Yield where each record is, its text and the name of its source.

        Raises:
            ValueError: a record without text.
        """
        advice = (
            "Name the column: --text NAME. (Token ids need no store: give such files to "
            "ctxbench-train as they are.)"
        )
        columns = (self.text, self.label, self.label.partition(".")[0])
        for where, record in read_records(self.file, columns, self.begin, self.end):
            text = text_of(record, self.text, where, advice)
            yield where, text, record_source(record, self.label, where)


@dataclass(frozen=True)
class Scanned:
    """The documents that survived the thinning.

    Attributes:
        documents: records of `SCANNED`, whose `source` counts `names`.
        part: `[documents]`, which part each is in.
        names: of the sources, sorted.
    """

    documents: np.ndarray
    part: np.ndarray
    names: list[str]


def parts_of(files: list[Path], text: str, label: str) -> list[Part]:
    """Return files cut into parts."""
    ranges = [(file, *span) for file in files for span in byte_ranges(file, RANGE_BYTES)]
    return [Part(file, begin, end, text, label) for file, begin, end in ranges]


def document_keys(text: str, source: str, seed: int) -> tuple[int, int]:
    """Return two independent uniform 64-bit numbers: the order and the lot of a document."""
    key = f"{seed}/{source}".encode()[:64]
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=key)
    found = digest.digest()
    return int.from_bytes(found[:8], "little"), int.from_bytes(found[8:], "little")


def is_kept(request: StoreRequest, characters: int, lot: int) -> bool:
    """Return whether a document survives the thinning of short ones."""
    if not request.thins or characters >= request.long * CHARACTERS_PER_TOKEN:
        return True
    return lot < request.keep_short * 2**64


def scan(part: Part, request: StoreRequest) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Return the kept documents of a part, and how long all its documents are.

    Returns:
        Records of `SCANNED`, and source name -> documents by floor(log2(estimated tokens)). The
        names are in the order that `source` counts them.
    """
    kept = []
    names: dict[str, list[int]] = {}
    indices: dict[str, int] = {}
    for number, (_, text, name) in enumerate(part.documents()):
        if not text:
            continue
        counts = names.setdefault(name, [0] * HISTOGRAM_BINS)
        index = indices.setdefault(name, len(indices))
        counts[length_bin(len(text) / CHARACTERS_PER_TOKEN)] += 1
        order, lot = document_keys(text, name, request.seed)
        if is_kept(request, len(text), lot):
            kept.append((order, lot, number, len(text), index))
    return np.array(kept, dtype=SCANNED), names


def length_bin(tokens: float) -> int:
    """Return floor(log2(tokens)), at least 0."""
    return max(int(tokens).bit_length() - 1, 0)


def record_source(record: dict[str, Any], label: str, where: str) -> str:
    """Return the name of a record's source, "" where it has none.

    Args:
        record: of a file or dataset.
        label: a column, or a path into objects such as `meta.redpajama_set_name`.
        where: it is, for messages.

    Raises:
        ValueError: a text on the path is no JSON.
    """
    value: Any = record.get(label)
    if value is None:
        value = record
        for key in label.split("."):
            if isinstance(value, str):  # SlimPajama's meta is JSON text in some copies
                try:
                    value = json.loads(value)
                except ValueError as error:
                    raise ValueError(
                        f"{where}: {value[:60]!r} was to be JSON with {key!r} in it ({error}). "
                        "Name the column of the source's name: --label NAME."
                    ) from error
            value = value.get(key) if isinstance(value, dict) else None
    return source_name(value) if isinstance(value, str) else ""
