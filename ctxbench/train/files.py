"""Reading records from files: jsonl (plain, gzip, zstd), parquet, txt."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TEXT_FILES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".parquet", ".txt")
ARRAY_FILES = (".bin", ".npy")


def data_files(path: Path) -> list[Path]:
    """Return the files with records at a path, sorted: the file itself, or all in a folder.

    Raises:
        ValueError: there are none.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    readable = [file for file in files if file.name.endswith(TEXT_FILES)]
    if not readable:
        raise ValueError(
            f"{path} holds no data that can be read. Allowed: "
            f"{', '.join(TEXT_FILES + ARRAY_FILES)}, a folder of these, or a folder written by "
            "datasets' save_to_disk. Convert it to one of them."
        )
    return readable


def read_records(
    file: Path, columns: Sequence[str], begin: int = 0, end: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the records of a file.

    Args:
        file: one of `data_files`.
        columns: the only ones wanted; a hint that parquet follows. A txt file is one record, its
            content under the first of them.
        begin: of plain jsonl: only lines that begin at this byte or later,
        end: and before this one; None for the end of the file.

    Raises:
        ValueError: a line that is no JSON object, or a damaged file; the message names it.
    """
    try:
        yield from _records(file, columns, begin, end)
    except (EOFError, gzip.BadGzipFile, zlib.error, _Damaged) as error:
        raise ValueError(
            f"{file} is damaged or cut short: {error}. It must be a whole file of the kind its "
            "name says. Copy or download it again, or leave it out."
        ) from error


class _Damaged(Exception):
    """A file's content is not what its name says."""


def _records(
    file: Path, columns: Sequence[str], begin: int, end: int | None
) -> Iterator[dict[str, Any]]:
    if file.suffix == ".txt":
        try:
            yield {columns[0]: file.read_text(encoding="utf-8")}
        except UnicodeDecodeError as error:
            raise _Damaged(f"it is not UTF-8 ({error})") from error
    elif file.suffix == ".parquet":
        import pyarrow.parquet

        try:
            parquet = pyarrow.parquet.ParquetFile(file)
            there = [name for name in columns if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(columns=there):
                yield from batch.to_pylist()
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise _Damaged(str(error)) from error
    else:
        with _open_lines(file) as lines:
            for number, line in enumerate(_between(lines, begin, end), 1):
                try:
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise ValueError("it is something else")
                except ValueError as error:
                    where = f"line {number}" + (f" after byte {begin}" if begin else "")
                    raise ValueError(
                        f"{file} {where} is not a JSON object: {error}. Every line must be one, "
                        f"with {' or '.join(map(repr, columns))}. Mend the line."
                    ) from error
                yield record


def byte_ranges(file: Path, size: int) -> list[tuple[int, int | None]]:
    """Return ranges of about `size` bytes that cut a file for `read_records`.

    Only plain jsonl can be cut; other files are one range.
    """
    total = file.stat().st_size
    if file.suffix != ".jsonl" or total <= size:
        return [(0, None)]
    return [(begin, min(begin + size, total)) for begin in range(0, total, size)]


def _open_lines(file: Path):
    if file.suffix == ".gz":
        return gzip.open(file, "rb")
    if file.suffix == ".zst":
        try:
            import zstandard  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ValueError(
                f"{file} is compressed with zstd, which needs the package zstandard. "
                "pip install zstandard, or unpack the file."
            ) from None
        return zstandard.open(file, "rb")
    return open(file, "rb")


def _between(lines, begin: int, end: int | None) -> Iterator[bytes]:
    """Yield the lines that begin in `[begin, end)`; an open file is cut without reading it all."""
    if not begin and end is None:
        yield from lines
        return
    if begin:
        lines.seek(begin - 1)
        lines.readline()  # the line that began before
    while end is None or lines.tell() < end:
        line = lines.readline()
        if not line:
            return
        yield line
