"""Which tokens a perplexity protocol reads, which it scores, and how a task asks a model for that.

A window is `(context_start, score_start, end)`, token offsets: the model reads
`ids[context_start:end]` as one sequence, exactly these tokens and nothing before them, and the
tokens `ids[score_start:end]` are scored, each from what the window has before it. So
`context_start < score_start < end`: the first token of a window has no context and is never scored.

A task asks with a request of type `loglikelihood_rolling` whose one argument is a `WindowRequest`:
a short text for logs and caches, with the request itself in its attribute `ctx_request`:

    {"ctx_request": "windows",
     "ids": [int, ...],                                  # token ids, nothing is to be added to them
     "windows": [[context_start, score_start, end], ...],
     "bucket": int}                                      # 0: no sums by position

The model answers with one dictionary, negative log-likelihoods in nats summed in float64:

    {"sums": [float, ...],       # per window: over ids[score_start:end]
     "positions": [float, ...]}  # only if bucket: entry b sums, over all windows, the scored tokens
                                 # t with (t - context_start) // bucket == b; as many entries as
                                 # the longest window needs
"""

import hashlib
import json
from collections.abc import Sequence

Window = tuple[int, int, int]


class WindowRequest(str):
    """The argument of a request for window sums; see the head of this file for the schema.

    A string, because lm-eval hashes, caches and logs what it sends to a model. A model that does
    not know the request must not score that text: lm-eval's own models ask first whether a text
    `startswith` the BOS token, and get an error that says what to do. Whatever escapes that is
    caught when the answer is not a dictionary (`ctxbench.tasks.perplexity.task`).
    """

    ctx_request: dict

    def __new__(cls, ids: Sequence[int], windows: Sequence[Sequence[int]], bucket: int = 0):
        """Build the request.

        Args:
            ids: token ids.
            windows: offsets into `ids`.
            bucket: tokens per entry of the sums by position; 0 for none.
        """
        request = {
            "ctx_request": "windows",
            "ids": list(ids),
            "windows": [list(window) for window in windows],
            "bucket": bucket,
        }
        digest = hashlib.sha256(json.dumps(request).encode()).hexdigest()
        shown = {"ctx_request": "windows", "windows": len(windows), "tokens": len(ids)}
        text = super().__new__(cls, json.dumps({**shown, "sha256": digest}))
        text.ctx_request = request
        return text

    def __getnewargs__(self):
        request = self.ctx_request
        return request["ids"], request["windows"], request["bucket"]

    def startswith(self, *_) -> bool:
        """Refuse to be tokenised as if it were the text to score."""
        raise ValueError(WRONG_MODEL)


WRONG_MODEL = (
    "This task asks for the loss of sliding windows over given tokens, which lm-eval's own models "
    "do not know. It runs on the model type 'ctxext' (any Hugging Face checkpoint, with any method "
    "or with method=none). Use --model ctxext."
)


def overlap_windows(num_tokens: int, length: int, stride: int) -> list[Window]:
    """Return the paper's windows: one every `stride` tokens, all of it scored.

    A token is scored up to `length / stride` times, at every position. The last window is left out
    as in the reference code (LongLoRA's eval.py, which LCEG's eval_perplexity copies).
    """
    starts = range(0, num_tokens - length, stride)[:-1]
    return [(start, start + 1, start + length) for start in starts]


def sliding_windows(num_tokens: int, length: int, stride: int) -> list[Window]:
    """Return windows in which only new tokens are scored: every token but the first, once.

    The first window is scored whole; each further one ends `stride` tokens later (the last one at
    the end of the text) and reads `length` tokens (Press et al. 2022, arXiv 2108.12409).
    """
    ends = [*range(length, num_tokens, stride), num_tokens]
    scored = [1, *ends[:-1]]
    return [(max(0, end - length), start, end) for start, end in zip(scored, ends, strict=True)]


def prefix_windows(num_tokens: int, length: int, stride: int) -> list[Window]:
    """Return one window: the first `length` tokens, all scored (`stride` has no meaning)."""
    return [(0, 1, length)] if num_tokens >= length else []


def in_chunks(window: Window, chunk: int) -> list[Window]:
    """Cut a window into parts that cannot see each other: a model measured beyond its own length.

    The first token of every part has no context and is not scored (the paper's Figure 3 shows the
    base model "seeing tokens every 4k chunks"; its code is not published).
    """
    start, _, end = window
    return [
        (begin, begin + 1, min(begin + chunk, end))
        for begin in range(start, end, chunk)
        if min(begin + chunk, end) - begin > 1
    ]


PROTOCOLS = {
    "overlap": overlap_windows,
    "sliding": sliding_windows,
    "prefix": prefix_windows,
    "lceg_landmark": overlap_windows,
}
OVER_DOCUMENTS = ("overlap", "lceg_landmark")
"""Protocols that take all documents as one stream."""
