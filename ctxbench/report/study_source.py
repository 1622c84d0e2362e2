"""Where a study's files are read: its folder, or the archive of it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxbench.core.protocol import Protocol, read_protocol
from ctxbench.report.archive import NAME, read_archive
from ctxbench.report.result_files import ResultFolder, archived_folder, result_folders


@dataclass(frozen=True)
class StudySource:
    """A study's files, before its cells are read.

    Attributes:
        path: of study.json, or of the archive.
        content: of study.json.
        trainings: text of each train.yaml, by ROW/seed-K.
        folders: of cells, in the order of their paths.
    """

    path: Path
    content: dict[str, Any]
    trainings: dict[str, str]
    folders: Iterator[ResultFolder]

    @property
    def root(self) -> Path:
        """The folder that paths of cells begin with."""
        return self.path.parent

    def protocol(self) -> Protocol:
        """Return its protocol.

        Raises:
            ValueError: study.json is damaged.
        """
        try:
            return read_protocol(self.content, "study.json")
        except ValueError as damage:
            raise ValueError(
                f"{self.path} is not the protocol of a study: {damage} `ctxbench study` with this "
                "folder as --output writes it again if it is not there; finished cells stay."
            ) from damage


def find_study(path: Path) -> StudySource | None:
    """Return the study in a folder (its files, else its archive) or an archive, None if none.

    Raises:
        ValueError: study.json is no JSON, or the archive's head is damaged.
    """
    if (file := path / "study.json").is_file():
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as damage:
            raise ValueError(f"{file} is no JSON ({damage}). Fetch it again.") from damage
        trainings = {
            file.parent.relative_to(path / "train").as_posix(): file.read_text(encoding="utf-8")
            for file in sorted((path / "train").glob("*/seed-*/train.yaml"))
        }
        cells = path / "cells"  # not there before the first one is measured
        folders = result_folders(cells) if cells.is_dir() else iter(())
        return StudySource(file, content, trainings, folders)
    archive = path / NAME if path.is_dir() else path
    if not archive.is_file() or not archive.name.endswith(".jsonl.xz"):
        return None
    lines = read_archive(archive)
    head = next(lines)
    if "study" not in head:
        return None
    folders = (archived_folder(found, archive.parent) for found in lines)
    return StudySource(archive, head["study"], head.get("train", {}), folders)
