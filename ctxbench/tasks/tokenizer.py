"""The tokenizer a task builds its prompts with, from lm-eval's metadata."""

from functools import lru_cache
from typing import Any

from ctxbench.core.assets import resolve_model
from ctxbench.core.refused import readable_config


def tokenizer_name(tokenizer: str | None = None, pretrained: str | None = None, **_) -> str:
    """Return which tokenizer to use: metadata `tokenizer`, else the model's own.

    lm-eval merges model arguments and `--metadata` and hands both to a task's data function.

    Raises:
        ValueError: neither is given.
    """
    name = tokenizer or pretrained
    if not name:
        raise ValueError(
            "This task builds prompts of an exact token length and needs to know the tokenizer. "
            "Neither metadata 'tokenizer' nor the model argument 'pretrained' was given. "
            """Add --metadata '{"tokenizer": "PATH_OR_ID"}'."""
        )
    return resolve_model(name)


@lru_cache(maxsize=8)
def load_tokenizer(name: str):
    """Load a tokenizer from a bundled name, a folder, or a hub id."""
    from transformers import AutoTokenizer

    path = resolve_model(name)
    return AutoTokenizer.from_pretrained(path, config=readable_config(path))


def count_tokens(tokenizer: Any, text: str) -> int:
    """Return the number of tokens of a text, special tokens not added.

    Of a fast tokenizer without its table of offsets, which takes longer than the tokens.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.truncation or backend.padding:
        return len(tokenizer(text, add_special_tokens=False).input_ids)
    return len(backend.encode_batch_fast([text], add_special_tokens=False)[0])
