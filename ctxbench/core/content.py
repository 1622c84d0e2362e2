"""What a file is, by its bytes: digests, each read once."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from ctxbench.core.assets import cache_dir
from ctxbench.core.atomic_file import write_atomically

_BLOCK = 2**22
CHECKPOINT_FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
"""Weights, config and tokenizer of a checkpoint."""


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, hex; 64 s for 100 GB on one core, once.

    It is kept under the file's inode, size and times of change. No program sets the time of the
    last change of an inode (`ctime`), so that other bytes are noticed whatever their time says; a
    copy is read again, and has the same digest.
    """
    status = file.stat()
    key = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    kept = cache_dir() / "digests" / name
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = kept.read_text(encoding="ascii")
        if len(found) == 64:
            return found
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    with contextlib.suppress(OSError):  # then it is read again
        write_atomically(kept, digest.hexdigest().encode(), synced=False, shared=True)
    return digest.hexdigest()


def digest_of(files: Iterable[Path], named: bool = True) -> str:
    """Return one digest of several files, 64 hex digits.

    Args:
        files: in an order that means something, if they are not named.
        named: their names count; without, their contents in this order.
    """
    found = [[file.name if named else "", file_digest(file)] for file in files]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()
