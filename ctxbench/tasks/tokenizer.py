"""The tokenizer a task builds its prompts with, from lm-eval's metadata."""

from functools import lru_cache
from typing import Any

from ctxbench.core.assets import resolve_model
from ctxbench.core.compat.lm_eval import model_in_use
from ctxbench.core.refused import readable_config
from ctxbench.core.windows import looks_ahead

_LOADING = ("revision", "trust_remote_code", "use_fast_tokenizer")
_asked: dict[str, tuple[tuple[str, Any], ...]] = {}  # name -> model arguments that say how to load


def tokenizer_name(
    tokenizer: str | None = None, pretrained: str | None = None, **metadata: Any
) -> str:
    """Return which tokenizer to use: metadata `tokenizer`, else the model's own.

    lm-eval merges model arguments and `--metadata` and hands both to a task's data function. Those
    that say how a tokenizer is loaded are followed whenever this one is, as the model does.

    Raises:
        ValueError: neither is given.
    """
    name = tokenizer or pretrained or _of_the_model()
    if not name:
        raise ValueError(
            "This task builds prompts of an exact token length and needs to know the tokenizer. "
            "Neither metadata 'tokenizer' nor the model argument 'pretrained' was given. "
            """Add --metadata '{"tokenizer": "PATH_OR_ID"}'."""
        )
    path = resolve_model(name)
    given = {key: metadata[key] for key in _LOADING if metadata.get(key) is not None}
    if given.get("revision") == "main":
        del given["revision"]
    _asked[path] = tuple(given.items())
    return path


def _of_the_model() -> str | None:
    """Return where the tokenizer of the model in use is, if that tells."""
    model = model_in_use()
    return model.tokenizer.name_or_path if looks_ahead(model) else None


def load_tokenizer(name: str) -> Any:
    """Load a tokenizer from a bundled name, a folder, or a hub id."""
    path = resolve_model(name)
    return _load(path, _asked.get(path, ()))


@lru_cache(maxsize=8)
def _load(path: str, asked: tuple[tuple[str, Any], ...]) -> Any:
    from transformers import AutoTokenizer

    more = dict(asked)
    if "use_fast_tokenizer" in more:
        more["use_fast"] = more.pop("use_fast_tokenizer")
    return AutoTokenizer.from_pretrained(path, config=readable_config(path), **more)


def plain_backend(tokenizer: Any) -> Any:
    """Return the `tokenizers.Tokenizer` that does all of a tokenizer's work, None if none does.

    A class from elsewhere may change texts before they come to it. What the tokenizer's file says
    about cutting and padding is left out, as `transformers` does in every call.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and (backend.truncation or backend.padding):
        backend.no_truncation()
        backend.no_padding()
    return backend if type(tokenizer).__module__.startswith("transformers.") else None


def count_tokens(tokenizer: Any, text: str, special_tokens: bool = False) -> int:
    """Return the number of tokens of a text, by default without what is added around it.

    Of a fast tokenizer without its table of offsets, which takes longer than the tokens.
    """
    backend = plain_backend(tokenizer)
    if backend is None:
        return len(tokenizer(text, add_special_tokens=special_tokens, verbose=False).input_ids)
    return len(backend.encode_batch_fast([text], add_special_tokens=special_tokens)[0])
