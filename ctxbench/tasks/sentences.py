"""Sentence borders by NLTK's punkt, found once per text and remembered.

NLTK is large, so it does its work in a process of its own, where the half of scientific Python
that it would import (200 MB, and more time than the splitting) is kept out; the borders (half a
megabyte for three of text) stay in the cache folder.
"""

import hashlib
import io
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np

from ctxbench.core.assets import cache_dir, find_data
from ctxbench.core.atomic_file import write_atomically
from ctxbench.core.compat.nltk import english_splitter, leave_scipy_out

log = logging.getLogger(__name__)

_VERSION = 1
_GET_PUNKT = (
    "NLTK's sentence splitter punkt_tab was not found: neither nltk_data/tokenizers/punkt_tab/"
    "english in a folder that CTXBENCH_DATA names, nor where NLTK looks. Run "
    "`ctxbench data fetch ruler`, or `python -m nltk.downloader punkt_tab`."
)


def sentence_spans(text: str, data_dir: str | None = None) -> np.ndarray:
    """Return the character spans of the English sentences of a text: `[sentences, 2]`.

    Raises:
        FileNotFoundError: punkt's parameters are not on this machine.
        ValueError: they are damaged.
    """
    folder = find_data(
        "nltk_data/tokenizers/punkt_tab/english", "punkt_tab/english", data_dir=data_dir
    )
    digest = hashlib.sha256(f"{_VERSION}\n{text}".encode())
    for path in sorted(folder.iterdir()) if folder else []:
        digest.update(path.read_bytes())
    cached = cache_dir() / "sentences" / f"{digest.hexdigest()[:32]}.npy"
    if cached.exists():
        try:
            return np.load(cached, allow_pickle=False)
        except (ValueError, EOFError) as error:
            log.warning(
                "The sentence borders in %s are damaged (%s); finding them again.", cached, error
            )
    write_atomically(cached, _spans_from_child(text, folder), shared=True)
    return np.load(cached, allow_pickle=False)


def _spans_from_child(text: str, folder: Path | None) -> bytes:
    command = [sys.executable, "-m", __name__, str(folder or "")]
    child = subprocess.run(command, input=text.encode(), capture_output=True)
    if child.returncode:
        error = child.stderr.decode(errors="replace").strip()
        if "LookupError" in error:
            raise FileNotFoundError(_GET_PUNKT)
        if folder is not None:
            raise ValueError(
                f"NLTK's parameters in {folder} are damaged ({error.splitlines()[-1]}). The folder "
                "must be as NLTK's punkt_tab has it. Run `python -m nltk.downloader punkt_tab`."
            )
        raise RuntimeError(f"Splitting sentences failed: {error[-2000:]}")
    return child.stdout


def _main() -> None:
    """Read a text from standard input, write the spans as a .npy file to standard output."""
    leave_scipy_out()
    text = sys.stdin.buffer.read().decode()
    spans = np.array(list(english_splitter(sys.argv[1]).span_tokenize(text)), dtype=np.int64)
    buffer = io.BytesIO()
    np.save(buffer, spans)
    sys.stdout.buffer.write(buffer.getvalue())


if __name__ == "__main__":
    _main()
