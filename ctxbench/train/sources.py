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
from ctxbench.core.content import digest_of
from ctxbench.core.settings import read_settings
from ctxbench.core.text_files import check_text, read_records, record_files
from ctxbench.train.tokens.check import check_array, check_ids
from ctxbench.train.tokens.store import DOCUMENTS, META, TokenShards, TokenStore, is_store
from ctxbench.train.word_encoder import WordEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Options = TypeVar("Options")
Document = tuple[str, Any]
"""Where it is, for messages; its text, token ids, or `Scored` ones."""

_BLOCK_CHARACTERS = 250_000
_STORE_VERSION, _CONTENT_VERSION = 2, 3
_TOKENS, _STARTS, _UNSCORED = "tokens.bin", "starts.npy", "unscored.npy"
_MASKS = ("labels", "attention_mask", "position_ids", "loss_mask")
"""Columns beside `input_ids` that say what of them is trained on."""


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
        fingerprint: what version 0.1.0 knew them by: path, size and time of files.
        identity: what they are known by: the content of files.
        unscored: `[spans, 2]` begin and end of tokens that no loss counts, in order.
    """

    tokens: np.ndarray | TokenShards
    starts: np.ndarray | None
    fingerprint: str
    identity: str = ""
    unscored: np.ndarray | None = None

    def labels(self, begin: int, ids: np.ndarray) -> np.ndarray:
        """Return the ids of a row that begins at a token, -100 where they are not scored."""
        if self.unscored is None:
            return ids
        labels, end = ids.copy(), begin + len(ids)
        first = np.searchsorted(self.unscored[:, 1], begin, side="right")
        last = np.searchsorted(self.unscored[:, 0], end)
        for low, high in self.unscored[first:last]:
            labels[max(low - begin, 0) : high - begin] = -100
        return labels


@dataclass(frozen=True)
class Scored:
    """Token ids of which some are not scored.

    Attributes:
        ids: `[N]`.
        scored: `[N]` bool.
    """

    ids: Any
    scored: np.ndarray


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
        shards = sorted(path.glob("*.bin"))
        identity = digest_of([path / META, path / DOCUMENTS, *shards])
        return TokenStream(store.tokens, store.documents["offset"], store.fingerprint, identity)
    if path.is_file() or (path.is_dir() and not _is_saved_dataset(path)):
        column = source.read_options(FileOptions).column
        files = record_files(path)
        stamp = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        columns = (column, "input_ids", *_MASKS)
        records = (found for file in files for found in read_records(file, columns))
        content = [digest_of(files, named=False), column]
        return cached_stream([stamp, column], _documents(records, column), tokenizer, content)
    dataset, column = _open_dataset(path, source)
    records = ((f"{source.name} record {number}", row) for number, row in enumerate(dataset, 1))
    arrow = sorted(path.rglob("*.arrow")) if path.is_dir() else []
    content = [digest_of(arrow), column, source.options.get("split")] if arrow else None
    stamp = [fingerprint(dataset), column]
    return cached_stream(stamp, _documents(records, column), tokenizer, content)


def cached_stream(
    stamp: Any,
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    content: Any = None,
) -> TokenStream:
    """Return documents as one stream of tokens, from the cache if they are there.

    Args:
        stamp: what identified the documents in version 0.1.0; JSON values.
        documents: read only if the cache lacks them.
        tokenizer: a fast one.
        content: what identifies them by their bytes; default the stamp.

    Several processes may do this at once: each builds in a folder of its own, the first to finish
    renames it, the others use that.
    """
    key = [_STORE_VERSION, stamp, tokenizer_stamp(encoder(tokenizer))]
    fingerprint = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    identity, folder = fingerprint, cache_dir() / "tokens" / fingerprint
    if content is not None:
        key = [_CONTENT_VERSION, content, key[-1]]
        identity = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        folder = folder.with_name(identity)
    dtype = token_dtype(len(tokenizer))
    if (found := _read_cache(folder, dtype)) is None:
        building = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
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
    tokens, starts, unscored = found
    return TokenStream(tokens, starts, fingerprint, identity, unscored)


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


def _read_cache(
    folder: Path, dtype: type
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | None:
    """Return tokens, starts and what is not scored; None without, damaged ones are removed."""
    if not folder.is_dir():
        return None
    try:
        starts = np.load(folder / _STARTS, allow_pickle=False)
        tokens = np.memmap(folder / _TOKENS, dtype=dtype, mode="r")
        if len(tokens) != starts[-1]:
            raise ValueError(f"{len(tokens)} tokens, not {starts[-1]}")
        unscored = None
        if (folder / _UNSCORED).exists():
            unscored = np.load(folder / _UNSCORED, allow_pickle=False)
        return tokens, starts[:-1], unscored
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
    starts, unscored, total = [], [], 0
    with open(folder / _TOKENS, "wb") as file:
        words = WordEncoder(encoder(tokenizer))
        for ids in encode_documents(documents, words, separator(tokenizer)):
            starts.append(total)
            if isinstance(ids, np.ndarray) and (hidden := ids < 0).any():
                unscored.append(_spans(hidden) + total)
                ids = np.where(hidden, ~ids, ids)
            total += len(ids)
            file.write(np.asarray(ids, dtype=dtype).tobytes())
    if not total:
        raise ValueError("The data hold no text. Give files with text or input_ids in them.")
    if unscored:
        np.save(folder / _UNSCORED, np.concatenate(unscored))
    np.save(folder / _STARTS, np.array([*starts, total], dtype=np.int64))


def _spans(marks: np.ndarray) -> np.ndarray:
    """Return `[spans, 2]`: begin and end of every run of true in `[N]` bool."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], marks, [False])).astype(np.int8)))
    return edges.reshape(-1, 2).astype(np.int64)


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

    An id that is not scored comes as its complement, `~id`, below 0.

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
            masked = isinstance(document, Scored)
            ids = check_ids(document.ids if masked else document, words.vocabulary, where)
            yield np.where(document.scored, ids, ~ids) if masked else ids
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
        masks = {name: record[name] for name in _MASKS if isinstance(record.get(name), list)}
        yield where, _scored(found, masks, where) if masks else found


def _scored(found: Any, masks: dict[str, list], where: str) -> Any:
    """Return the attended ids of a record, and which of them are scored.

    Raises:
        ValueError: a column asks for what training does not do.
    """
    sizes = {name: len(values) for name, values in masks.items()}
    if isinstance(found, str) or set(sizes.values()) != {len(found)}:
        raise ValueError(
            f"{where} has {', '.join(f'{k} of {n}' for k, n in sizes.items())} entries beside "
            f"{'a text' if isinstance(found, str) else f'{len(found)} input_ids'}, which would be "
            "ignored. They must be as many as the input_ids. Correct the record, or leave the "
            "columns out."
        )
    ids, every = np.asarray(found), np.ones(len(found), dtype=int)
    mask, labels = (
        np.asarray(masks.get(k, d)) for k, d in (("attention_mask", every), ("labels", ids))
    )
    positions = np.asarray(masks.get("position_ids", np.cumsum(mask) - 1))
    for name, fine, what in (
        (
            "attention_mask",
            np.isin(mask, (0, 1)),
            "0 and 1 (documents are kept apart by --document-mask)",
        ),
        ("labels", (labels == -100) | (labels == ids), "the token itself, or -100 for not scored"),
        (
            "position_ids",
            (positions == np.cumsum(mask) - 1) | (mask == 0),
            "0, 1, 2, ... (they begin anew at documents with --document-mask)",
        ),
        ("loss_mask", np.isin(masks.get("loss_mask", every), (0, 1)), "0 and 1"),
    ):
        if not fine.all():
            at = int(np.flatnonzero(~fine)[0])
            raise ValueError(
                f"{where}: {name} is {masks[name][at]} at token {at}, which training would ignore. "
                f"Allowed is {what}. Correct the column, or leave it out."
            )
    kept = mask == 1
    scored = (labels != -100) & (np.asarray(masks.get("loss_mask", every)) == 1)
    return Scored(ids[kept], scored[kept])


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
    return TokenStream(tokens, None, fingerprint, digest_of([path], named=False))


def _is_saved_dataset(path: Path) -> bool:
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _open_dataset(path: Path, source: Source) -> tuple[Any, str]:
    """Return a datasets.Dataset and its text column."""
    import datasets

    options = source.read_options(DatasetOptions)
    if path.is_dir():
        found = datasets.load_from_disk(str(path))
        if isinstance(found, datasets.DatasetDict):
            if options.split not in found:
                raise ValueError(
                    f"data {source.name!r} has no split {options.split!r}, only "
                    f"{', '.join(map(str, found))}. Name one: SOURCE:split=NAME."
                )
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
