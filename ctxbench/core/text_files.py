"""Reading users' text files: what is damaged is named, with its line and what to do."""

import gzip
import io
import json
import logging
import lzma
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

RECORD_FILES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".parquet", ".txt")
_ALIKE = (".json", ".csv", ".tsv", ".arrow", ".zip", ".tar", ".md")
"""Of files in a folder of data that may be thought to be read."""
AGAIN = "Copy or download it again, or leave it out."
_DAMAGE = (EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
logger = logging.getLogger(__name__)
_BATCH = 64
"""Rows of parquet at once: a row may be a book."""


def record_files(path: Path) -> list[Path]:
    """Return the files with records at a path, sorted: the file itself, or all in a folder.

    Raises:
        ValueError: there are none.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    if found := [file for file in files if file.name.endswith(RECORD_FILES)]:
        data = [file for file in found if not _is_about(file)] or found
        passed = [f for f in files if f in set(found) - set(data) or f.suffix in _ALIKE]
        if passed:
            logger.warning(
                "In the folder %s these are not read: %s. Read are: %s.", path,
                _names(passed), _names(data),
            )  # fmt: skip
        return data
    raise ValueError(
        f"{path} holds no data that can be read: known are {', '.join(RECORD_FILES)}, folders of "
        "these, and .bin or .npy (token ids). Convert it to one of them."
    )


def _is_about(file: Path) -> bool:
    """Return whether a text is about the data: a README, a license."""
    name = file.name.lower()
    return name.endswith(".txt") and name.startswith(("readme", "license", "licence", "notice"))


def _names(files: Sequence[Path]) -> str:
    shown = ", ".join(file.name for file in files[:8])
    return shown + (f" and {len(files) - 8} more" if len(files) > 8 else "")


def read_records(
    file: Path,
    columns: Sequence[str],
    begin: int = 0,
    end: int | None = None,
    advice: str = AGAIN,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the records of a file, each with where it is, for messages.

    Args:
        file: one of `record_files`.
        columns: the only ones wanted; a hint that parquet follows. A txt file is one record, its
            content under the first of them.
        begin: of plain jsonl: only lines that begin at this byte or later,
        end: and before this one; None for the end of the file.
        advice: one sentence that says what to do with a damaged file.

    Raises:
        ValueError: a line that is no JSON object, or a damaged file; the message names it.
    """
    with explained(file, advice):
        if file.suffix == ".txt":
            yield str(file), {columns[0]: file.read_text(encoding="utf-8")}
        elif file.suffix == ".parquet":
            import pyarrow.parquet

            parquet = pyarrow.parquet.ParquetFile(file)
            # where none is there, all are read, for the message that says so
            there = [name for name in columns if name in parquet.schema_arrow.names] or None
            batches = parquet.iter_batches(_BATCH, columns=there)
            records = (record for batch in batches for record in batch.to_pylist())
            for number, record in enumerate(records, 1):
                yield f"{file} record {number}", record
        else:
            after = f" after byte {begin}," if begin else ""
            with _open_lines(file) as lines:
                yield from json_objects(_between(lines, begin, end), f"{file}{after}", advice)


def json_objects(
    lines: Iterable[str | bytes], name: object, advice: str = AGAIN
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every line of JSON Lines, with where it is; empty lines are passed over.

    Raises:
        ValueError: a line is no JSON object.
    """
    import jsonlines

    number = 0

    def counted() -> Iterator[str | bytes]:
        nonlocal number
        every = iter(lines)
        while True:
            # here, since jsonlines takes the EOFError by which gzip says "cut short" for its end
            with explained(f"{name} line {number + 1}", advice):
                line = next(every, None)
            if line is None:
                return
            number += 1
            yield line

    # whatever faster parser is installed, floats and errors are those of the standard library
    reader = jsonlines.Reader(counted(), loads=json.loads)  # type: ignore[call-arg]
    try:
        for row in reader.iter(type=dict, skip_empty=True):
            yield f"{name} line {number}", row
    except (jsonlines.InvalidLineError, RecursionError) as error:
        raise ValueError(
            f"{name} line {number} is not a JSON object ({error.__cause__ or error}). Every line "
            f"must be one. {advice}"
        ) from error


def json_lines(rows: Iterable[Any], compact: bool = False) -> bytes:
    """Return rows as JSON Lines, `compact` without spaces between values."""
    import jsonlines

    stream = io.StringIO()
    writer = jsonlines.Writer(stream, compact=compact)  # type: ignore[call-arg]
    writer.write_all(rows)
    return stream.getvalue().encode()


def byte_ranges(file: Path, size: int) -> list[tuple[int, int | None]]:
    """Return ranges of about `size` bytes that cut a file for `read_records`.

    Only plain jsonl can be cut; other files are one range.
    """
    total = file.stat().st_size
    if file.suffix != ".jsonl" or total <= size:
        return [(0, None)]
    return [(begin, min(begin + size, total)) for begin in range(0, total, size)]


def text_of(record: dict[str, Any], column: str, where: str, advice: str) -> str:
    """Return the text of a record.

    Raises:
        ValueError: it has none, or none that a tokenizer takes.
    """
    if column not in record:
        raise ValueError(f"{where} has no {column!r}, only {', '.join(record)}. {advice}")
    return check_text(record[column], f"{where}: {column}", advice)


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
        around = ascii(text[max(error.start - 20, 0) : error.start + 20])
        raise ValueError(
            f"{where} is no valid text: it holds half of a surrogate pair at character "
            f"{error.start} ({around}), which UTF-8 does not allow. {advice}"
        ) from error
    return text


@contextmanager
def explained(name: object, advice: str) -> Iterator[None]:
    """Turn the errors of readers inside the block into one of ours.

    Args:
        name: of the file that is read.
        advice: one sentence that says what to do.

    Raises:
        ValueError: the file is damaged, cut short, or of another kind.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):  # the system's has a number, gzip's and parquet's has none
            is_damage = error.errno is None and not isinstance(error, FileNotFoundError)
        else:
            package = type(error).__module__.partition(".")[0]
            is_damage = isinstance(error, _DAMAGE) or package in ("pyarrow", "zstandard")
        if not is_damage:
            raise
        raise ValueError(
            f"{name} is damaged, cut short or of another kind ({error}). It must be whole, and its "
            f"text UTF-8. {advice}"
        ) from error


_YAML_NODES = 100_000


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ValueError: it is no plain YAML, or no mapping.
    """
    import yaml

    try:
        text = file.read_text(encoding="utf-8")
        _check_yaml_size(yaml.compose(text, yaml.SafeLoader), file)
        found = yaml.safe_load(text)
    except RecursionError:
        raise ValueError(
            f"{file} is nested too deep to be read. Settings need a few levels. Correct it."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file} is not plain YAML: {' '.join(str(error).split())}. It must hold names, "
            "numbers and texts; tags that make Python objects are refused. Correct it."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{file} is not a mapping but {type(found).__name__}. Write `key: value` lines."
        )
    return found


def _check_yaml_size(root: Any, file: Path) -> None:
    """Refuse what a few lines of aliases make endless.

    Raises:
        ValueError: it is too large with its aliases written out, or holds itself.
    """
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = _YAML_NODES + 1  # until it is known: a node within itself
            value = getattr(node, "value", None)
            parts = value if isinstance(value, list) else ()
            flat = [
                each for part in parts for each in (part if isinstance(part, tuple) else [part])
            ]
            sizes[id(node)] = 1 + sum(map(size, flat))
        return sizes[id(node)]

    if size(root) > _YAML_NODES:
        raise ValueError(
            f"{file} has more than {_YAML_NODES:,} entries once its aliases (*name) are written "
            "out, or one that holds itself. Write out what you need."
        )


def _open_lines(file: Path) -> IO[bytes]:
    if file.suffix == ".gz":
        return gzip.open(file, "rb")  # type: ignore[return-value]
    if file.suffix != ".zst":
        return open(file, "rb")
    try:
        import zstandard  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            f"{file} is compressed with zstd, which needs the package zstandard. "
            "pip install zstandard, or unpack the file."
        ) from None
    compressed = open(file, "rb")  # noqa: SIM115  (closed with what reads it)
    frames = zstandard.ZstdDecompressor().stream_reader(compressed, read_across_frames=True)
    return io.BufferedReader(frames)


def _between(lines: IO[bytes], begin: int, end: int | None) -> Iterator[bytes]:
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
