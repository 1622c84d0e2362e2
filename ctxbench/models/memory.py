"""How many rows and how many tokens at once fit the memory that is free."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from ctxbench.core.cost import model_shape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

_SHARE = 0.7  # of the free memory that a batch may take
_DEFAULT_CHUNK = 8192  # tokens fed at once where memory is short
_SMALL_CHUNK = 1024  # and after an out-of-memory with one row


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free on a device, bytes."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + reusable)
    import psutil

    return int(psutil.virtual_memory().available)


class MemoryBudget:
    """Batch and chunk sizes for one model; shrinks on out-of-memory, says so once.

    Args:
        model: on its device.
        max_rows: of a batch.
        prefill_chunk: tokens fed at once; None: all where memory allows.
    """

    def __init__(self, model: PreTrainedModel, max_rows: int, prefill_chunk: int | None):
        self.model = model
        self.max_rows = max_rows
        self.prefill_chunk = prefill_chunk
        self.row_limit = max_rows
        self.warned = False
        self.per_token = model_shape(model).forward_bytes(model.dtype.itemsize)

    def rows(self, length: int) -> int:
        """Return how many rows of `length` tokens fit, at least 1."""
        room = _SHARE * free_bytes(self.model.device)
        fits = int(room // (self.per_token * max(length, 1)))
        return max(1, min(fits, self.row_limit))

    def chunk(self, rows: int, length: int) -> int:
        """Return how many tokens of each row to feed at once."""
        if self.prefill_chunk:
            return self.prefill_chunk
        if rows * length * self.per_token <= _SHARE * free_bytes(self.model.device):
            return max(length, 1)
        return _DEFAULT_CHUNK

    def shrink(self, rows: int) -> None:
        """Allow fewer rows after out-of-memory with `rows`, or smaller chunks of one row.

        Raises:
            torch.OutOfMemoryError: one row in small chunks does not fit; says what to do.
        """
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if rows <= 1:
            if self.prefill_chunk is not None and self.prefill_chunk <= _SMALL_CHUNK:
                raise torch.OutOfMemoryError(
                    f"A single request does not fit the memory of the device, fed in chunks of "
                    f"{self.prefill_chunk} tokens. Give a half-precision dtype, parallelize=True, "
                    "or a smaller length."
                )
            self.prefill_chunk = _SMALL_CHUNK
            log.warning("Out of memory with one row; feeding %d tokens at once.", _SMALL_CHUNK)
            return
        self.row_limit = max(1, rows // 2)
        if not self.warned:
            self.warned = True
            log.warning("Out of memory with %d rows; going on with %d.", rows, self.row_limit)
