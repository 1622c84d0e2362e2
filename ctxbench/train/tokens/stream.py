"""A dataset of the hub, streamed once into a local file of the documents that a store may want."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ctxbench.core.assets import cache_dir
from ctxbench.core.atomic_file import replacing
from ctxbench.core.text_files import json_lines, text_of
from ctxbench.train.tokens.documents import document_keys, is_kept, record_source
from ctxbench.train.tokens.request import CHARACTERS_PER_TOKEN, StoreRequest

MARGIN = 1.5
"""The stream is read until its estimated tokens are this much more than every budget: tokens are
estimated by characters / 3.68, and tokenizers with longer tokens make fewer of them."""


def open_hub_stream(name: str, revision: str | None, split: str) -> Iterable[dict[str, Any]]:
    """Return the records of a dataset of the hub, not downloaded as a whole.

    Raises:
        FileNotFoundError: it cannot be had.
    """
    import datasets

    try:
        return datasets.load_dataset(name, split=split, revision=revision, streaming=True)
    except (FileNotFoundError, ConnectionError, OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name} is neither a file or folder here nor a dataset that can be had: "
            f"{str(error).splitlines()[0]} Give an existing one."
        ) from error


def spool(
    name: str,
    records: Iterable[dict[str, Any]],
    request: StoreRequest,
    *,
    text: str,
    label: str,
) -> Path:
    """Write what a store may want of a stream into the cache folder; return the file.

    Short documents are thinned out on the way, and those of a source that has enough are left out.
    Which documents are taken depends on the order of the stream, which a revision fixes.

    Args:
        name: identifies the stream: id, revision and split.
        records: with a text and a source's name.
        request: of the store.
        text: column of the text.
        label: column of the source's name.
    """
    key = json.dumps([name, request.as_dict(), text, label])
    file = cache_dir() / "streams" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.jsonl"
    if file.exists():
        return file
    wanted = {source: tokens * MARGIN for source, tokens in request.budgets().items()}
    with replacing(file, shared=True) as stream:
        for number, record in enumerate(records, 1):
            where = f"{name} record {number}"
            source = record_source(record, label, where)
            content = text_of(record, text, where, "Name the column: --text NAME.")
            budget = source if request.mix else ""
            if wanted.get(budget, 0) <= 0 or not content:
                continue
            if is_kept(request, len(content), document_keys(content, source, request.seed)[1]):
                wanted[budget] -= len(content) / CHARACTERS_PER_TOKEN
                stream.write(json_lines([{text: content, label: source}]))
                if max(wanted.values()) <= 0:
                    break
    return file
