"""Where training text comes from: files, folders, datasets, token arrays.

A source is written `SOURCE[:key=value,...][@weight]`: a path or a datasets id, options, and its
share of the mixture. Text is tokenised once and kept in the cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from ctxbench.core.assets import cache_dir
from ctxbench.core.compat.datasets import fingerprint
from ctxbench.core.settings import read_settings
from ctxbench.core.text_files import check_text, read_records, record_files
from ctxbench.train.tokens.check import check_array, check_ids
from ctxbench.train.tokens.store import TokenShards, TokenStore, is_store
from ctxbench.train.word_encoder import WordEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Options = TypeVar("Options")
Document = tuple[str, Any]
"""Where it is, for messages; its text, or token ids."""

_BLOCK_CHARACTERS = 250_000
_STORE_VERSION = 2
_TOKENS, _STARTS = "tokens.bin", "starts.npy"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One part of a mixture.

    Attributes:
        name: path, datasets id, or `stdlib`.
        options: `key=value` pairs, as text.
        weight: share of the rows; shares are normalised.
    """

    name: str
    options: dict[str, str]
    weight: float = 1.0

    def read_options(self, cls: type[Options]) -> Options:
        """Return the typed options.

        Raises:
            ValueError: one that sources of this kind do not have, or a value that is not allowed.
        """
        return read_settings(cls, self.options, f"data {self.name!r}", text=True)


def parse_source(text: str) -> Source:
    """Return a source from `NAME[:key=value,...][@weight]`.

    Raises:
        ValueError: there is no name, or the weight is no positive number.
    """
    name, at, weight = text.rpartition("@")
    if not at or not re.fullmatch(r"[0-9.eE+-]+", weight):
        name, weight = text, "1"
    head, colon, tail = name.rpartition(":")
    options = {}
    if colon and all(re.fullmatch(r"\w+=[^=]*", part) for part in tail.split(",")):
        name, options = head, dict(part.split("=") for part in tail.split(","))
    try:
        share = float(weight)
        if not 0 < share < math.inf:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"data {text!r}: the weight {weight!r} is not a positive number. Write for example "
            "books.jsonl@0.3."
        ) from None
    if not name.strip():
        raise ValueError(
            f"data {text!r} names nothing. It must be a file, a folder, a dataset's id or stdlib. "
            "Give one of them."
        )
    return Source(name=name, options=options, weight=share)


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Of a token store, or a .npy file."""


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """Of files with records.

    Attributes:
        column: of the text.
    """

    column: str = "text"


@dataclass(frozen=True, kw_only=True)
class ArrayOptions:
    """Of a .bin file.

    Attributes:
        dtype: it was written with.
    """

    dtype: Literal["uint16", "uint32", "int32", "int64"] = "uint16"


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Of a dataset; the first two also of one that was saved to a folder."""

    split: str = "train"
    column: str = "text"
    revision: str | None = None
    subset: str | None = None


@dataclass(frozen=True)
class TokenStream:
    """Documents laid end to end.

    Attributes:
        tokens: `[N]` integers, often memory-mapped; takes slices.
        starts: `[documents]` offset of each document; None where the source does not say.
        fingerprint: changes when the tokens do.
    """

    tokens: np.ndarray | TokenShards
    starts: np.ndarray | None
    fingerprint: str


def open_stream(source: Source, tokenizer: PreTrainedTokenizerBase) -> TokenStream:
    """Return the tokens of a source, tokenising it unless the cache has it.

    Raises:
        FileNotFoundError: no such file, folder or dataset.
        ValueError: a form of data that is not read.
    """
    path = Path(source.name).expanduser()
    if path.suffix in (".bin", ".npy") and path.is_file():
        return _open_array(path, source, len(tokenizer))
    if is_store(path):
        source.read_options(NoOptions)
        store = TokenStore(path)
        store.check_tokenizer(tokenizer_stamp(encoder(tokenizer)), source.name)
        return TokenStream(store.tokens, store.documents["offset"], store.fingerprint)
    if path.is_file() or (path.is_dir() and not _is_saved_dataset(path)):
        column = source.read_options(FileOptions).column
        files = record_files(path)
        stamp = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        records = (found for file in files for found in read_records(file, (column, "input_ids")))
        return cached_stream([stamp, column], _documents(records, column), tokenizer)
    dataset, column = _open_dataset(path, source)
    records = ((f"{source.name} record {number}", row) for number, row in enumerate(dataset, 1))
    return cached_stream([fingerprint(dataset), column], _documents(records, column), tokenizer)


def cached_stream(
    stamp: Any,
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
) -> TokenStream:
    """Return documents as one stream of tokens, from the cache if they are there.

    Args:
        stamp: what identifies the documents; JSON values.
        documents: read only if the cache lacks them.
        tokenizer: a fast one.

    Several processes may do this at once: each builds in a folder of its own, the first to finish
    renames it, the others use that.
    """
    key = [_STORE_VERSION, stamp, tokenizer_stamp(encoder(tokenizer))]
    fingerprint = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    folder = cache_dir() / "tokens" / fingerprint
    dtype = token_dtype(len(tokenizer))
    if (found := _read_cache(folder, dtype)) is None:
        building = folder.with_name(f"{fingerprint}.{os.getpid()}.tmp")
        building.mkdir(parents=True, exist_ok=True)
        try:
            _write_cache(building, documents, tokenizer, dtype)
            with contextlib.suppress(FileExistsError, OSError):  # another process was first
                os.rename(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        found = _read_cache(folder, dtype)
    if found is None:
        raise FileNotFoundError(
            f"The tokens could not be kept in {folder}. The cache folder must be writable and have "
            "room. Set CTXBENCH_CACHE to another one."
        )
    return TokenStream(*found, fingerprint)


def encoder(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the `tokenizers.Tokenizer` behind a tokenizer.

    Raises:
        ValueError: there is none.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"{type(tokenizer).__name__} is not a fast tokenizer. Text is tokenised with fast ones "
            "only; give data that are token ids already (input_ids, .bin, .npy)."
        )
    return backend


# ------------------------------------------------------------------- building


def _read_cache(folder: Path, dtype: type) -> tuple[np.ndarray, np.ndarray] | None:
    """Return tokens and starts, None where they are not there; damaged ones are removed."""
    if not folder.is_dir():
        return None
    try:
        starts = np.load(folder / _STARTS, allow_pickle=False)
        tokens = np.memmap(folder / _TOKENS, dtype=dtype, mode="r")
        if len(tokens) != starts[-1]:
            raise ValueError(f"{len(tokens)} tokens, not {starts[-1]}")
        return tokens, starts[:-1]
    except (OSError, ValueError, EOFError, IndexError) as error:
        logger.warning(
            "The cached tokens in %s are damaged (%s); making them again.", folder, error
        )
        shutil.rmtree(folder)
        return None


def _write_cache(
    folder: Path, documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase, dtype: type
) -> None:
    """Write the tokens, and where each document starts; the last entry is where all end."""
    starts, total = [], 0
    with open(folder / _TOKENS, "wb") as file:
        words = WordEncoder(encoder(tokenizer))
        for ids in encode_documents(documents, words, separator(tokenizer)):
            starts.append(total)
            total += len(ids)
            file.write(np.asarray(ids, dtype=dtype).tobytes())
    if not total:
        raise ValueError("The data hold no text. Give files with text or input_ids in them.")
    np.save(folder / _STARTS, np.array([*starts, total], dtype=np.int64))


def token_dtype(vocabulary: int) -> type:
    """Return the smallest integer type for token ids below `vocabulary`."""
    return np.uint16 if vocabulary <= 2**16 else np.uint32


def tokenizer_stamp(backend: Any) -> str:
    """Return a hash of all that a `tokenizers.Tokenizer` does."""
    return hashlib.sha256(backend.to_str().encode()).hexdigest()


def encode_documents(
    documents: Iterable[Document], words: WordEncoder, separator: list[int]
) -> Iterator[Any]:
    """Yield the ids of each document; texts begin with the separator, token ids stay as they are.

    Raises:
        ValueError: a document is no valid text, or holds ids beyond the vocabulary.
    """
    block: list[Document] = []
    characters = 0

    def flush() -> Iterator[list[int]]:
        try:
            encoded = words.encode([text for _, text in block])
        except TypeError:
            for where, text in block:
                check_text(text, where, "Correct it where the data were made.")
            raise
        for ids in encoded:
            yield [*separator, *ids]
        block.clear()

    for where, document in documents:
        if isinstance(document, str):
            block.append((where, document))
            characters += len(document)
            if characters > _BLOCK_CHARACTERS:
                yield from flush()
                characters = 0
        else:
            yield from flush()
            yield check_ids(document, words.vocabulary, where)
    yield from flush()


def separator(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return what to put before a document: nothing where the tokenizer adds a BOS itself."""
    if encoder(tokenizer).encode("", add_special_tokens=True).ids:
        return []
    tokens: list[Any] = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return [token for token in tokens if token is not None][:1]


# -------------------------------------------------------------------- reading


def _documents(records: Iterable[tuple[str, dict[str, Any]]], column: str) -> Iterator[Document]:
    """Yield token ids of each record, or its text where it has none.

    Raises:
        ValueError: it has neither.
    """
    for where, record in records:
        found = record.get("input_ids", record.get(column))
        if found is None:
            raise ValueError(
                f"{where} has neither {column!r} nor input_ids, only {', '.join(record)}. Name the "
                "column: SOURCE:column=NAME."
            )
        yield where, found


def _open_array(path: Path, source: Source, vocabulary: int) -> TokenStream:
    if path.suffix == ".npy":
        source.read_options(NoOptions)
        try:
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged, or holds Python objects ({error}). It must be a .npy array of "
                "token ids. Write it again with numpy.save."
            ) from error
    else:
        dtype = source.read_options(ArrayOptions).dtype
        if path.stat().st_size % np.dtype(dtype).itemsize or not path.stat().st_size:
            raise ValueError(
                f"{path} has {path.stat().st_size} bytes, which is no whole number of {dtype} "
                "tokens. Give the dtype it was written with (SOURCE:dtype=uint32), or the whole "
                "file."
            )
        tokens = np.memmap(path, dtype=dtype, mode="r")
    tokens = tokens.reshape(-1)
    check_array(tokens, vocabulary, f"data {source.name!r}")
    stamp = [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]
    fingerprint = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:16]
    return TokenStream(tokens, None, fingerprint)


def _is_saved_dataset(path: Path) -> bool:
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _open_dataset(path: Path, source: Source) -> tuple[Any, str]:
    """Return a datasets.Dataset and its text column."""
    import datasets

    options = source.read_options(DatasetOptions)
    if path.is_dir():
        found = datasets.load_from_disk(str(path))
        if isinstance(found, datasets.DatasetDict):
            found = found[options.split]
        return found, options.column
    if path.suffix or source.name.startswith((".", "/", "~")) or source.name.count("/") > 1:
        raise FileNotFoundError(
            f"There is no file or folder {source.name}. Give an existing one, the id of a dataset, "
            "or stdlib."
        )
    try:
        found = datasets.load_dataset(
            source.name,
            options.subset,
            split=options.split,
            revision=options.revision,
        )
    except (FileNotFoundError, ConnectionError, OSError) as error:
        raise FileNotFoundError(
            f"{source.name} is neither a file or folder here nor a dataset that can be had: "
            f"{str(error).splitlines()[0]} Give an existing one, or stdlib."
        ) from error
    return found, options.column
