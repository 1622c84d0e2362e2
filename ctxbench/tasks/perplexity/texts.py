"""The documents of a perplexity task, as token ids: raw text or LongLoRA's token files.

Raw text: records with a `text` (see `ctxbench.core.text_files`), or `.txt` (one document).
Token file: `.bin`, little-endian uint16 or uint32 token ids of the model's own tokenizer, the
documents one after the other, each beginning with the BOS token.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ctxbench.core.assets import find_data
from ctxbench.core.text_files import RECORD_FILES, read_records, text_of
from ctxbench.tasks.hub import HubFile

ADVICE = "Fetch or write the file again."


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a text comes from: file names in `CTXBENCH_DATA`, else one file of the hub.

    `min_tokens`: shorter documents are passed over while the first ones are collected (raw text
    only; LongLoRA's token file was made so).
    """

    names: tuple[str, ...] = ()
    hub: HubFile | None = None
    min_tokens: int = 0


SOURCES = {
    # deepmind/pg19 is a loading script, which `datasets` no longer runs; this is its parquet copy.
    "pg19": Source(
        names=("pg19_test.bin", "pg19/test.bin", "pg19_test.jsonl", "pg19_test.parquet"),
        hub=HubFile(
            repo="emozilla/pg19",
            filename="data/test-00000-of-00001-29a571947c0b5ccc.parquet",
            revision="c021754c8e01c5b1cc83a1f549c1f97fbbb756b8",
            family="pg19_ppl",
        ),
    ),
    # The commit is not known to us, the content is: the digest pins it.
    "proof_pile": Source(
        names=(
            "proof_pile_test.bin",
            "proof-pile/test_sampled_data.bin",
            "proof_pile_test.jsonl",
            "proofpile_test.jsonl.gz",
        ),
        hub=HubFile(
            repo="hoskinson-center/proof-pile",
            filename="test/proofpile_test.jsonl.gz",
            revision="main",
            family="proof_pile_ppl",
            sha256="b1bc923aa34b2b03db08e2f451d8442d9ca7aad1c857a8835382c94a8bb1d835",
        ),
        min_tokens=32768,
    ),
    "text": Source(),
}


@dataclass
class Documents:
    """Token ids of each document (BOS first, if the tokenizer has one), and what was left out.

    `sizes`: UTF-8 bytes of each document's text; nothing for a token file. `added`: tokens put
    before each text.
    """

    ids: list[np.ndarray] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    added: int = 0
    empty: int = 0
    short: int = 0

    @property
    def skipped(self) -> int:
        """How many documents were left out."""
        return self.empty + self.short


def locate(source: Source, text_path: str | None, data_dir: str | None) -> Path:
    """Return the file to read: the one given, a local one, the hub's.

    Raises:
        FileNotFoundError: a given file is missing, or there is nothing to read.
    """
    if text_path:
        path = Path(text_path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"Metadata text_path={text_path!r} is not a file. It must name one of "
                f"{', '.join(RECORD_FILES)} or .bin. Correct the path."
            )
        return path
    if found := find_data(*source.names, data_dir=data_dir):
        return found
    if source.hub is None:
        raise FileNotFoundError(
            "This task measures a text of your own and none was given. It reads "
            f"{', '.join(RECORD_FILES)} or .bin. Add "
            """--metadata '{"text_path": "FILE"}'."""
        )
    return source.hub.fetch()


def read_documents(
    path: Path, tokenizer, *, limit: int, min_tokens: int = 0, bin_dtype: str | None = None
) -> Documents:
    """Read the first `limit` documents of a file as token ids (0: all of them).

    Raises:
        ValueError: wrong columns, wrong token type, nothing to read.
    """
    if path.suffix == ".bin":
        ids = read_bin(path, tokenizer, bin_dtype)
        documents = Documents(ids=split_at_bos(ids, tokenizer.bos_token_id, limit))
    else:
        documents = tokenize(read_texts(path), tokenizer, limit=limit, min_tokens=min_tokens)
    if not documents.ids:
        raise ValueError(
            f"{path.name} has no document to measure ({documents.empty} empty, {documents.short} "
            f"shorter than {min_tokens} tokens). Give a file with text."
        )
    return documents


def tokenize(texts: Iterable[str], tokenizer, *, limit: int = 0, min_tokens: int = 0) -> Documents:
    """Tokenise documents until `limit` are collected; empty and short ones are counted."""
    # Of no text, the first token may be an EOS that is the BOS too.
    bos = [i for i in tokenizer("a")["input_ids"][:1] if i == tokenizer.bos_token_id]
    documents = Documents(added=len(bos))
    for text in texts:
        if not text.strip():
            documents.empty += 1
            continue
        ids = bos + tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) < min_tokens:
            documents.short += 1
            continue
        documents.ids.append(np.asarray(ids, dtype=np.int64))
        documents.sizes.append(len(text.encode()))
        if len(documents.ids) == limit:
            break
    return documents


def read_texts(path: Path) -> Iterator[str]:
    """Yield the documents of a raw text file.

    Raises:
        ValueError: the file or a line of it is damaged, has no texts, or is of no known type.
    """
    if not path.name.endswith(RECORD_FILES):
        raise ValueError(
            f"{path.name} is of no known type; known are {', '.join(RECORD_FILES)} and .bin (token "
            "ids). Convert the file."
        )
    for where, record in read_records(path, ["text"], advice=ADVICE):
        yield text_of(record, "text", where, "Documents are in a column 'text'. " + ADVICE)


def read_bin(path: Path, tokenizer, dtype: str | None = None) -> np.ndarray:
    """Map a token file; the type follows the vocabulary's size unless given.

    Raises:
        ValueError: unknown type, odd size, or ids beyond the vocabulary.
    """
    dtype = dtype or ("uint16" if len(tokenizer) <= 1 << 16 else "uint32")
    width = int(dtype[4:]) // 8
    if path.stat().st_size % width:
        raise ValueError(
            f"{path.name} has {path.stat().st_size} bytes, no whole number of {dtype} tokens. "
            "Token files are uint16 or uint32. Set metadata bin_dtype, or fetch the file again."
        )
    ids = np.memmap(path, dtype=f"<u{width}", mode="r")
    if ids.size and (largest := int(ids.max())) >= len(tokenizer):
        raise ValueError(
            f"{path.name} read as {dtype} has token id {largest}, and the tokenizer has "
            f"{len(tokenizer)} tokens. A token file must be made with the model's tokenizer. Use "
            "that tokenizer's file, or set metadata bin_dtype to 'uint16' or 'uint32'."
        )
    return ids


def split_at_bos(ids: np.ndarray, bos: int | None, limit: int) -> list[np.ndarray]:
    """Cut a token stream into its first `limit` documents, each beginning with BOS (0: all).

    The reference code cuts where the file's first token recurs (LCEG eval_perplexity: at its 11th
    occurrence), which is the same for a file made with BOS and wrong for any other.

    Raises:
        ValueError: documents are asked for by number and the file does not begin with BOS.
    """
    if not ids.size:
        return []
    if ids[0] != bos:
        if limit:
            raise ValueError(
                f"The token file begins with id {ids[0]}, and the tokenizer's BOS id is {bos}: its "
                f"first {limit} documents cannot be told apart. A file of documents has BOS before "
                "each. Set metadata ppl_documents to 0 to measure the whole file as one text."
            )
        return [np.asarray(ids, dtype=np.int64)]
    starts = np.flatnonzero(ids == bos)
    if limit and starts.size > limit:
        ids, starts = ids[: starts[limit]], starts[:limit]
    return [np.asarray(part, dtype=np.int64) for part in np.split(ids, starts[1:])]
