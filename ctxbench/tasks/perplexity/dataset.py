"""The shards of a perplexity task: which windows over which documents.

A shard is what lm-eval calls a document: a few windows that begin in one text. lm-eval deals
shards out to processes, so windows are split over them whatever the number of texts.
"""

import logging
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Annotated, Any, Literal

import numpy as np

from ctxbench.core.errors import named_for
from ctxbench.core.lengths import length_name
from ctxbench.core.settings import Count, Range, Whole, read_settings
from ctxbench.core.windows import Window
from ctxbench.tasks.documents import as_dataset
from ctxbench.tasks.model_window import check_task_length
from ctxbench.tasks.perplexity.protocols import OVER_DOCUMENTS, PROTOCOLS
from ctxbench.tasks.perplexity.texts import SOURCES, Documents, locate, read_documents
from ctxbench.tasks.tokenizer import load_tokenizer, tokenizer_name

log = logging.getLogger(__name__)

BUCKET = 256  # tokens per point of the loss by position (Figure 3)
WINDOWS_PER_SHARD = 16


@dataclass(frozen=True, kw_only=True)
class TokenWindows:
    """All windows of a task over one stream of token ids."""

    ids: np.ndarray
    windows: list[Window]
    documents: list[int]  # the document each window begins in
    skipped: int
    bytes_per_token: float | None  # of the text in UTF-8; None for a token file

    def cost(self) -> str:
        """Say what is going to be read, in tokens."""
        read = sum(end - start for start, _, end in self.windows)
        scored = sum(end - first for _, first, end in self.windows)
        return (
            f"{len(self.windows)} windows of {len(set(self.documents))} documents "
            f"({self.ids.size} tokens): {read} tokens to read, {scored} to score"
        )


def lay_windows(documents: Documents, protocol: str, length: int, stride: int) -> TokenWindows:
    """Lay the windows of a protocol over documents.

    `overlap` and `lceg_landmark` treat them as one stream, as the paper does: windows may cross
    from one document into the next. `sliding` and `prefix` stay within a document and leave out
    those shorter than a window.

    Raises:
        ValueError: not one window fits.
    """
    whole = protocol in OVER_DOCUMENTS
    kept = [n for n, part in enumerate(documents.ids) if whole or part.size >= length]
    starts = np.cumsum([0, *(documents.ids[n].size for n in kept)]).tolist()
    windows = [
        Window(begin + start, begin + first, begin + end)
        for begin, stop in ([(0, starts[-1])] if whole else pairwise(starts))
        for start, first, end in PROTOCOLS[protocol](stop - begin, length, stride)
    ]
    if not windows:
        raise ValueError(
            f"{len(documents.ids)} documents of {sum(part.size for part in documents.ids)} tokens, "
            f"the longest of {max(part.size for part in documents.ids)}, hold no window of "
            f"protocol {protocol!r} with length {length} and stride {stride}. Choose a shorter "
            "length, a longer text, or more documents (metadata ppl_documents)."
        )
    sizes = [documents.sizes[n] for n in kept] if documents.sizes else []
    first_tokens = [window.start for window in windows]
    return TokenWindows(
        ids=np.concatenate([documents.ids[n] for n in kept]),
        windows=windows,
        documents=(np.searchsorted(starts, first_tokens, side="right") - 1).tolist(),
        skipped=documents.skipped + len(documents.ids) - len(kept),
        bytes_per_token=sum(sizes) / (starts[-1] - documents.added * len(kept)) if sizes else None,
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may choose in `--metadata`.

    Attributes:
        ppl_stride: tokens between windows.
        ppl_documents: how many documents are read, 0 for all.
        ppl_chunk: cut every window into parts of so many tokens that do not see each other (the
            base model of Figure 3). 0: do not.
        text_path: measure this file (tasks `text_ppl_*` need it).
        data_dir: searched before `CTXBENCH_DATA`.
        bin_dtype: of a token file; None: by the size of the vocabulary.
    """

    ppl_stride: Count = 256  # the paper, section 4.1, and every sliding-window evaluation since
    ppl_documents: Whole = 10  # the reference code's cut, for PG19 and proof-pile alike
    ppl_chunk: Annotated[int, Range(least=0, multiple_of=BUCKET)] = 0
    text_path: str | None = None
    data_dir: str | None = None
    bin_dtype: Literal["uint16", "uint32"] | None = None


def shards(ctx_source: str, ctx_protocol: str, ctx_length: int, **metadata: Any) -> dict:
    """Build the shards of one task (lm-eval calls this as `custom_dataset`).

    Args:
        ctx_source: a key of `SOURCES`.
        ctx_protocol: a key of `PROTOCOLS`.
        ctx_length: tokens per window.
        metadata: `Options`, which the task's own `ctx_stride`, `ctx_documents` and `ctx_chunk` give
            other defaults, and what names the tokenizer.

    Returns:
        `{"test": shards, "shared": all token ids}`.

    Raises:
        ValueError: an option is not allowed; no window fits the texts, or none the model.
        FileNotFoundError: no data.
    """
    protocol = "" if ctx_protocol == "overlap" else f"_{ctx_protocol}"
    task = f"{ctx_source}_ppl{protocol}_{length_name(ctx_length)}"
    with named_for(task):
        return _shards(task, ctx_source, ctx_protocol, ctx_length, metadata)


def _shards(
    task: str, ctx_source: str, ctx_protocol: str, ctx_length: int, metadata: dict[str, Any]
) -> dict:
    own = {f"ppl_{k[4:]}": v for k, v in metadata.items() if k.startswith("ctx_")}
    options = read_settings(Options, {**own, **metadata}, "Metadata", strict=False)
    stride, chunk = options.ppl_stride, options.ppl_chunk
    if chunk and ctx_protocol == "sliding":
        raise ValueError(
            f"Metadata ppl_chunk={chunk} with protocol 'sliding'; it goes with any other protocol. "
            "Leave it out."
        )
    check_task_length(chunk or ctx_length, task, metadata)
    source = SOURCES[ctx_source]
    path = locate(source, options.text_path if ctx_source == "text" else None, options.data_dir)
    tokenizer = load_tokenizer(tokenizer_name(**metadata))
    documents = read_documents(
        path,
        tokenizer,
        limit=options.ppl_documents,
        min_tokens=source.min_tokens,
        bin_dtype=options.bin_dtype,
    )
    stream = lay_windows(documents, ctx_protocol, ctx_length, stride)
    log.info("%s_ppl %s %d: %s", ctx_source, ctx_protocol, ctx_length, stream.cost())
    if stream.skipped:
        log.warning("%d documents of %s left out: empty or short", stream.skipped, path.name)
    common = {
        "source": ctx_source,
        "file": path.name,
        "protocol": ctx_protocol,
        "stride": stride,
        "chunk": chunk,
        "bucket": 0 if ctx_protocol == "sliding" else BUCKET,
        "bytes_per_token": stream.bytes_per_token or bytes_per_token(stream.ids, tokenizer),
        "skipped": stream.skipped,
    }
    rows = ({"document": document, "windows": windows} for document, windows in _shard(stream))
    return as_dataset(rows, common=common, shared=stream.ids)


def bytes_per_token(ids: np.ndarray, tokenizer) -> float:
    """Return UTF-8 bytes per token of what token ids decode to, special tokens not counted.

    Raises:
        ValueError: all are special tokens.
    """
    ordinary = ids[~np.isin(ids, tokenizer.all_special_ids)]
    if not ordinary.size:
        raise ValueError(
            f"All {ids.size} tokens of the text are special ones of this tokenizer (unknown text "
            "has one too), so bits per byte cannot be told. Use the tokenizer of the model."
        )
    return len(tokenizer.decode(ordinary.tolist()).encode()) / ordinary.size


def _shard(stream: TokenWindows):
    """Yield (document, windows): up to `WINDOWS_PER_SHARD` that begin in one document."""
    by_document: dict[int, list[Window]] = {}
    for document, window in zip(stream.documents, stream.windows, strict=True):
        by_document.setdefault(document, []).append(window)
    for document, windows in by_document.items():
        rest = iter(windows)
        while part := list(islice(rest, WINDOWS_PER_SHARD)):
            yield document, part
