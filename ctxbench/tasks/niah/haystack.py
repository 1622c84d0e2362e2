"""The essays: a local file first, else a pinned copy on the Hugging Face hub."""

import functools
from pathlib import Path

from ctxbench.core.assets import find_data
from ctxbench.core.text_files import read_records, text_of
from ctxbench.tasks.essays import Essays, load_essays
from ctxbench.tasks.hub import HubFile
from ctxbench.tasks.sentences import sentence_spans

HUB = HubFile(
    repo="baber/paul_graham_essays",  # what lm-eval's own `ruler` reads
    filename="essays.parquet",
    revision="792d672b77d1a67720f7e9820d646358fc18792e",
    family="niah",
    sha256="825448033be010042ffd6fc77c32bbcab61f2ef63196f0fc4bfbf5b388a1660e",
)


def load_haystack(data_dir: str | None = None) -> Essays:
    """Load the essays: `PaulGrahamEssays.json`, `paul_graham_essays.parquet`, or the hub's.

    Raises:
        FileNotFoundError: neither a local file nor the hub has them.
        ValueError: a file is damaged.
    """
    if find_data("PaulGrahamEssays.json", data_dir=data_dir):
        return load_essays(data_dir)
    local = find_data("paul_graham_essays.parquet", data_dir=data_dir)
    return _read_parquet(str(local or HUB.fetch()), data_dir)


@functools.lru_cache(maxsize=2)
def _read_parquet(path: str, data_dir: str | None) -> Essays:
    advice = f"It must be {HUB.filename} of {HUB.repo}: remove the file, or fetch it again."
    records = read_records(Path(path), ["text"], advice=advice)
    texts = [text_of(record, "text", where, advice) for where, record in records]
    spans = functools.partial(sentence_spans, data_dir=data_dir)
    return Essays(" ".join(texts), spans)
