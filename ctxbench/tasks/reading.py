"""Reading users' data files: what is damaged is named, with its line and what to do."""

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def explained(name: object, advice: str) -> Iterator[None]:
    """Turn the errors of readers inside the block into one of ours.

    Args:
        name: of the file that is read.
        advice: one sentence that says what to do.

    Raises:
        ValueError: the file is damaged, cut short, or of another kind.
    """
    from pyarrow import ArrowException

    damage = (EOFError, UnicodeDecodeError, zlib.error, zipfile.BadZipFile, ArrowException)
    try:
        yield
    except (*damage, OSError) as error:
        if isinstance(error, FileNotFoundError) or getattr(error, "errno", None) is not None:
            raise  # the system's, not gzip's or parquet's
        raise ValueError(
            f"{name} is damaged, cut short or of another kind ({error}). It must be whole, and its "
            f"text UTF-8. {advice}"
        ) from error


def json_rows(lines: Iterable[str], name: object, advice: str) -> Iterator[tuple[int, dict]]:
    """Yield number (from 1) and object of every line of JSON; empty lines are passed over.

    Raises:
        ValueError: a line is no JSON object.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"it is {type(row).__name__}")
        except ValueError as error:
            raise ValueError(
                f"{name} line {number} is damaged ({error}). Every line must be one JSON object. "
                f"{advice}"
            ) from error
        yield number, row


def check_text(text: Any, where: str, advice: str) -> str:
    """Return a text that is one.

    Raises:
        ValueError: it is of another type, or holds half of a surrogate pair, which no tokenizer
            takes.
    """
    if not isinstance(text, str):
        raise ValueError(f"{where} is {type(text).__name__}, but must be a text. {advice}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} is no valid text: it holds half of a surrogate pair at character "
            f"{error.start}, which UTF-8 does not allow. {advice}"
        ) from error
    return text
