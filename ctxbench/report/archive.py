"""An archive of results: one line of JSON a folder, compressed, nothing lost in silence.

    {"format": "ctxbench results 1", "study": {...}, "train": {"ROW/seed-K": "..."}}
    {"folder": "cells/ROW/seed-K/COLUMN", "cell": {...}, "runs": [{"date", "results", "samples"}]}
    {"folders": 440}

`study` is study.json, `train` the text of each train.yaml, `cell` is cell.json, a run is a results
file of lm-eval and its samples by task; loose results have no study, train and cell. Lines are in
the order of their folders, so equal results give equal bytes. `xzcat` shows an archive.
"""

import io
import json
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ctxbench.core.atomic_file import new_folder, write_atomically
from ctxbench.core.text_files import explained, json_lines, json_objects

NAME = "cells.jsonl.xz"
_FORMAT = "ctxbench results 1"
_ADVICE = "Fetch the archive again, or make it again with `ctxbench report compact`."


def write_archive(path: Path, head: dict[str, Any], folders: Iterable[dict[str, Any]]) -> None:
    """Write an archive, whole or not at all.

    Raises:
        ValueError: there is one with other content.
    """
    made, count = io.BytesIO(), 0
    with lzma.open(made, "wb", preset=6 | lzma.PRESET_EXTREME) as lines:
        lines.write(json_lines([{"format": _FORMAT, **head}], compact=True))
        for folder in folders:
            lines.write(json_lines([folder], compact=True))
            count += 1
        lines.write(json_lines([{"folders": count}], compact=True))
    if path.exists() and path.read_bytes() != made.getvalue():
        raise ValueError(
            f"{path} is there and holds other results, which would be lost. Give another --out, or "
            "move it away."
        )
    write_atomically(path, made.getvalue())


def read_archive(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the head of an archive, then its folders, line by line; all is checked at the end.

    Raises:
        ValueError: it is damaged or cut; it names the line.
    """
    names: set[str] = set()
    with explained(path, _ADVICE), lzma.open(path, "rb") as lines:
        objects = json_objects(lines, path, _ADVICE)
        where, value = next(objects, (f"{path} line 1", {}))
        if value.get("format") != _FORMAT:
            raise ValueError(
                f"{where} is damaged: the format is {value.get('format')!r}, not {_FORMAT!r}. "
                f"{_ADVICE}"
            )
        yield value
        for where, value in objects:
            if "folders" in value:
                continue
            if value.get("folder") in {*names, None}:
                raise ValueError(
                    f"{where} is damaged: the folder is {value.get('folder')!r}, which is there "
                    f"twice or none. {_ADVICE}"
                )
            names.add(value["folder"])
            yield value
    if value.get("folders") != len(names):
        raise ValueError(
            f"{where} is damaged: the last line does not say that there are {len(names)} folders. "
            f"{_ADVICE}"
        )


def unpack(path: Path, folder: Path) -> int:
    """Write an archive's files into a folder, as `ctxbench study` and lm-eval have them.

    Returns:
        The number of folders of results.

    Raises:
        ValueError: the archive is damaged or names a file outside, or the folder is not empty.
    """
    head, *folders = read_archive(path)
    files = {"study.json": _text(head["study"])} if "study" in head else {}
    files |= {f"train/{name}/train.yaml": text for name, text in head.get("train", {}).items()}
    for found in folders:
        where = found["folder"]
        if found.get("cell"):
            files[f"{where}/cell.json"] = _text(found["cell"])
        for run in found["runs"]:
            files[f"{where}/results_{run['date']}.json"] = _text(run["results"])
            for task, samples in run["samples"].items():
                lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples]
                files[f"{where}/samples_{task}_{run['date']}.jsonl"] = "".join(lines)
    if outside := [n for n in files if n.startswith("/") or ".." in PurePosixPath(n).parts]:
        raise ValueError(f"{path} names {outside[0]!r}, outside {folder}. Nothing was written.")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty. Give --out a new folder.")
    with new_folder(folder) as building:
        for name, text in files.items():
            (building / name).parent.mkdir(parents=True, exist_ok=True)
            (building / name).write_text(text, encoding="utf-8", newline="\n")
    return len(folders)


def _text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
