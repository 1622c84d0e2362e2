"""Which model a run begins with, by content."""

from __future__ import annotations

from pathlib import Path

from ctxbench.core.assets import resolve_model
from ctxbench.core.content import CHECKPOINT_FILES, digest_of


def checkpoint_identity(model: str) -> str:
    """Return a digest of the weights, config and tokenizer of a checkpoint.

    Args:
        model: folder, hub id that was downloaded, or the bundled `mini`.

    Raises:
        FileNotFoundError: it was not downloaded.
    """
    folder = Path(resolve_model(model)).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(model, local_files_only=True))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{model} is no folder here, and not in the hub's cache. Give a folder, or "
                f"download it first (`hf download {model}`)."
            ) from error
    return digest_of(
        sorted({file for pattern in CHECKPOINT_FILES for file in folder.glob(pattern)})
    )
