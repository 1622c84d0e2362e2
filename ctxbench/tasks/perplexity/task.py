"""The lm-eval task: it hands windows to the model and turns their losses into results."""

import numpy as np
from lm_eval.api.instance import Instance

from ctxbench.core.windows import WRONG_MODEL, Window, WindowedText, WindowLosses
from ctxbench.tasks.class_task import ClassTask
from ctxbench.tasks.perplexity.protocols import in_chunks


class PerplexityTask(ClassTask[np.ndarray]):
    """A task whose requests are windows over one stream of token ids.

    The shared ids stay here and in the requests: of a shard, lm-eval logs the window offsets.
    """

    def construct_requests(self, doc: dict, ctx, **kwargs) -> list[Instance]:
        """Return one request per position of a chunk in its window (one, if nothing is chunked).

        Requests differ in where their windows begin *within* the task's windows, so that the sums
        by position of one request all belong to the same offset.
        """
        kwargs.pop("apply_chat_template", None)
        kwargs.pop("chat_template", None)
        requests = []
        for idx, windows in enumerate(chunk_windows(doc)):
            first, last = windows[0][0], windows[-1][2]
            text = WindowedText(
                self.shared[first:last].tolist(),
                [[offset - first for offset in window] for window in windows],
                doc["bucket"],
            )
            requests.append(
                Instance("loglikelihood_rolling", doc=doc, arguments=(text,), idx=idx, **kwargs)
            )
        return requests


def chunk_windows(doc: dict) -> list[list[Window]]:
    """Return the windows to read: those of the shard, or per chunk offset the parts of all."""
    if not doc["chunk"]:
        return [[Window(*window) for window in doc["windows"]]]
    parts = [in_chunks(Window(*window), doc["chunk"]) for window in doc["windows"]]
    return [list(same_offset) for same_offset in zip(*parts, strict=True)]


def process_results(doc: dict, results: list[WindowLosses]) -> dict:
    """Return the sums of one shard, to be put together by `ctxbench.tasks.perplexity.metrics`.

    Raises:
        ValueError: the model did not understand the request.
    """
    if not all(isinstance(result, dict) for result in results):
        raise ValueError(WRONG_MODEL)
    read = chunk_windows(doc)
    nll = sum(sum(result["sums"]) for result in results)
    tokens = sum(end - first for windows in read for _, first, end in windows)
    values = {
        f"ppl_{doc['protocol']}": (doc["document"], nll, tokens),
        f"ppl_{doc['protocol']}_se": (doc["document"], nll, tokens),
        "bits_per_byte": (nll, tokens, doc["bytes_per_token"]),
        "documents_skipped": doc["skipped"],
    }
    if doc["bucket"]:
        losses = [result.get("positions", []) for result in results]
        values["nll_by_position"] = _by_position(doc, read, losses)
    return values


def _by_position(
    doc: dict, read: list[list[Window]], losses: list[list[float]]
) -> list[list[float]]:
    """Return [NLL sum, number of tokens] per bucket of positions in the task's windows."""
    bucket = doc["bucket"]
    points: dict[int, list[float]] = {}
    for offset, (windows, positions) in enumerate(zip(read, losses, strict=True)):
        shift = offset * doc["chunk"] // bucket
        for b, nll in enumerate(positions):
            point = points.setdefault(b + shift, [0.0, 0])
            point[0] += nll
            point[1] += sum(
                max(0, min(end, start + (b + 1) * bucket) - max(first, start + b * bucket))
                for start, first, end in windows
            )
    return [points[b] for b in sorted(points)]
