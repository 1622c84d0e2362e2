"""Writing safetensors files; a full disk is an `OSError`, as for every other file."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def save_tensors(
    tensors: Mapping[str, torch.Tensor], file: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write tensors to a file.

    Raises:
        OSError: the system refused; with its number and the file's name.
    """
    from safetensors.torch import save_file

    with as_system_errors(file):
        save_file(dict(tensors), file, metadata=metadata)


@contextmanager
def as_system_errors(place: Path) -> Iterator[None]:
    """Turn safetensors' own error for a failed write into the system's.

    Args:
        place: file or folder that is written, for the message.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        number = int(found[1]) or errno.EIO
        raise OSError(number, os.strerror(number), str(place)) from error
