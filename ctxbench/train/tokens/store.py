"""A token store on disk, and reading it.

meta.json           what was asked and what is in it; written last
documents.npy       offset, length (tokens) and source of each document, in order
tokens-00000.bin    token ids, shards of equal size
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

VERSION = 1
META = "meta.json"
DOCUMENTS = "documents.npy"
PLACED = np.dtype([("offset", "<i8"), ("length", "<i8"), ("source", "<i4")])


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"tokens-{number:05d}.bin"


def is_store(folder: Path) -> bool:
    """Return whether a folder is a token store, finished or not."""
    return (folder / DOCUMENTS).is_file() or (folder / "work" / "request.json").is_file()


class TokenShards:
    """The tokens of a store as one array; a slice may cross from shard to shard."""

    def __init__(self, shards: list[np.ndarray]):
        self._shards = shards
        self._size = len(shards[0])
        self._length = sum(map(len, shards))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, where: slice) -> np.ndarray:
        begin, end, step = where.indices(self._length)
        assert step == 1
        parts = []
        while begin < end:
            shard, inside = divmod(begin, self._size)
            parts.append(self._shards[shard][inside : inside + end - begin])
            begin += len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts or [self._shards[0][:0]])


class TokenStore:
    """A finished token store.

    Attributes:
        meta: its description.
        tokens: all of them.
        documents: records of `PLACED`.
        fingerprint: changes when the tokens do.
    """

    def __init__(self, folder: Path):
        """Open a store.

        Raises:
            ValueError: it is not finished, damaged, or of another version.
        """
        if not (folder / META).is_file():
            raise ValueError(
                f"{folder} is a token store that is not finished. A store is whole when it has a "
                f"{META}. Run the same `ctxbench data tokenize` again: it goes on where it was."
            )
        try:
            self.meta: dict[str, Any] = json.loads((folder / META).read_text(encoding="utf-8"))
            if self.meta["version"] != VERSION:
                raise ValueError(f"its version is {self.meta['version']}, not {VERSION}")
            self.documents = np.load(folder / DOCUMENTS, mmap_mode="r", allow_pickle=False)
            total, size = self.meta["tokens"], self.meta["shard_tokens"]
            shards = []
            for number in range(-(-total // size)):
                shard = np.memmap(folder / shard_name(number), dtype=self.meta["dtype"], mode="r")
                wanted = min(size, total - number * size)
                if len(shard) != wanted:
                    raise ValueError(f"{shard_name(number)} has {len(shard)} tokens, not {wanted}")
                shards.append(shard)
        except (KeyError, TypeError, OSError, ValueError) as error:
            raise ValueError(
                f"The token store {folder} is damaged: {error}. It must be as `ctxbench data "
                "tokenize` wrote it; remove the folder and build it again."
            ) from error
        self.tokens = TokenShards(shards)
        self.fingerprint = hashlib.sha256(json.dumps(self.meta).encode()).hexdigest()[:16]

    def check_tokenizer(self, stamp: str, name: str) -> None:
        """Check that the store was made with a tokenizer.

        Raises:
            ValueError: it was made with another one.
        """
        if self.meta["tokenizer"] != stamp:
            raise ValueError(
                f"The token store {name} was made with another tokenizer than the model's. Token "
                "ids mean something for one tokenizer only. Build a store with --tokenizer MODEL."
            )
