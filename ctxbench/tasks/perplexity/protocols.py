"""Which tokens a perplexity protocol reads, and which of them it scores."""

from ctxbench.core.windows import Window


def overlap_windows(num_tokens: int, length: int, stride: int) -> list[Window]:
    """Return the paper's windows: one every `stride` tokens, all of it scored.

    A token is scored up to `length / stride` times, at every position. The last window is left out
    as in the reference code (LongLoRA's eval.py, which LCEG's eval_perplexity copies).
    """
    starts = range(0, num_tokens - length, stride)[:-1]
    return [Window(start, start + 1, start + length) for start in starts]


def sliding_windows(num_tokens: int, length: int, stride: int) -> list[Window]:
    """Return windows in which only new tokens are scored: every token but the first, once.

    The first window is scored whole; each further one ends `stride` tokens later (the last one at
    the end of the text) and reads `length` tokens (Press et al. 2022, arXiv 2108.12409).
    """
    ends = [*range(length, num_tokens, stride), num_tokens]
    scored = [1, *ends[:-1]]
    return [
        Window(max(0, end - length), first, end) for first, end in zip(scored, ends, strict=True)
    ]


def prefix_windows(num_tokens: int, length: int, stride: int) -> list[Window]:
    """Return one window: the first `length` tokens, all scored (`stride` has no meaning)."""
    return [Window(0, 1, length)] if num_tokens >= length else []


def in_chunks(window: Window, chunk: int) -> list[Window]:
    """Cut a window into parts that cannot see each other: a model measured beyond its own length.

    The first token of every part has no context and is not scored (the paper's Figure 3 shows the
    base model "seeing tokens every 4k chunks"; its code is not published).
    """
    start, _, end = window
    return [
        Window(begin, begin + 1, min(begin + chunk, end))
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
