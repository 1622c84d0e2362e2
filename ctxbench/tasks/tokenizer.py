"""The tokenizer a task builds its prompts with, from lm-eval's metadata."""

from functools import lru_cache

from ctxbench.assets import resolve_model
from ctxbench.refused import readable_config


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
