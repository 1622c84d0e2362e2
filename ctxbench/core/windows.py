"""Losses of windows over given tokens: how a task asks a model for them, and what it answers.

lm-eval hashes, caches and logs the text that a request carries, and hands the request itself to the
model. So a task asks by a `loglikelihood_rolling` request whose one argument is a `WindowedText`: a
short text for the logs, which carries the tokens and windows. The model answers `WindowLosses`.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypedDict, TypeGuard

WRONG_MODEL = (
    "This task asks for the loss of sliding windows over given tokens, which lm-eval's own models "
    "do not know. It runs on the model type 'ctxext' (any Hugging Face checkpoint, with any method "
    "or with method=none). Use --model ctxext."
)


class LooksAhead(Protocol):
    """A model that says before a run whether requests fit its window, and counts what it cuts.

    Attributes:
        max_length: its window, tokens.
        any_length: whether it takes requests of any length.
        tokenizer: of transformers.
    """

    max_length: int
    any_length: bool
    tokenizer: Any

    def request_sizes(self, requests: Sequence[Any]) -> list[int]:
        """Return the tokens that each request of lm-eval takes, its answer included.

        Raises:
            ValueError: one does not fit, and may not be cut.
        """
        ...


def looks_ahead(model: Any) -> TypeGuard[LooksAhead]:
    """Return whether a model of lm-eval is one; its properties are not touched."""
    return callable(getattr(type(model), "request_sizes", None))


class Window(NamedTuple):
    """Token offsets of a window: `start < first < end`.

    The model reads `ids[start:end]` as one sequence, exactly these tokens and nothing before them;
    `ids[first:end]` are scored, each from what the window has before it. The first token of a
    window has no context and is never scored.
    """

    start: int
    first: int
    end: int


class _Sums(TypedDict):
    sums: list[float]


class WindowLosses(_Sums, total=False):
    """Negative log-likelihoods in nats, summed in float64.

    Attributes:
        sums: per window, over its scored tokens.
        positions: only if the text has a bucket; entry b sums, over all windows, the scored tokens
            t with `(t - start) // bucket == b`; as many entries as the longest window needs.
    """

    positions: list[float]


class WindowedText(str):
    """Tokens and the windows over them whose losses are wanted; see the head of this file.

    A model that does not know it must not score the text that lm-eval logs of it: lm-eval's own
    models ask first whether a text `startswith` BOS, and get an error that says what to do. What
    escapes that is caught by the task, when the answer is not `WindowLosses`.

    Attributes:
        ids: token ids; nothing is to be added to them.
        windows: over the ids.
        bucket: tokens per entry of the sums by position; 0 for none.
    """

    ids: tuple[int, ...]
    windows: tuple[Window, ...]
    bucket: int

    def __new__(cls, ids: Sequence[int], windows: Iterable[Sequence[int]], bucket: int = 0):
        """Make the text; its digest tells requests apart in lm-eval's caches.

        Raises:
            ValueError: a window is empty or outside the ids.
        """
        windows = tuple(Window(*window) for window in windows)
        for start, first, end in windows:
            if not 0 <= start < first < end <= len(ids):
                raise ValueError(
                    f"The window {[start, first, end]} of {len(ids)} tokens makes no sense; "
                    "allowed is 0 <= start < first < end <= tokens. Correct the task."
                )
        kind = {"ctx_request": "windows"}
        asked = {**kind, "ids": list(ids), "windows": windows, "bucket": bucket}
        digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        shown = {**kind, "windows": len(windows), "tokens": len(ids), "sha256": digest}
        text = super().__new__(cls, json.dumps(shown))
        text.ids, text.windows, text.bucket = tuple(ids), windows, bucket
        return text

    def __getnewargs__(self):
        """Return what pickle makes a copy from, on another rank or in lm-eval's request cache."""
        return self.ids, self.windows, self.bucket

    def startswith(self, *_) -> bool:
        """Refuse to be tokenised as if it were the text to score."""
        raise ValueError(WRONG_MODEL)
