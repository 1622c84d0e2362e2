"""Evaluating from Python: `evaluate_model`, the harness's `simple_evaluate` with our model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any


def evaluate_model(
    model_or_path: Any,
    tasks: Sequence[str],
    method: str | None = None,
    length: int | str | None = None,
    limit: int | float | None = None,
    metadata: dict[str, Any] | None = None,
    **model_args: Any,
) -> dict[str, Any]:
    """Run tasks of lm_eval, ours or its own, and return what it writes to a result file.

    Args:
        model_or_path: a folder, a hub id, `mini`, or a model in memory (give its `tokenizer` too).
        tasks: their names.
        method: name or preset; None: the checkpoint's own.
        length: window in tokens, or `32k`.
        limit: samples of each task; below 1 a part of them.
        metadata: of the harness, for tasks that take some.
        model_args: what `lm_eval --model ctxext --model_args` takes, the method's options included.
    """
    import lm_eval

    asked = {"method": method, "length": length, **model_args}
    path = os.fspath(model_or_path) if isinstance(model_or_path, os.PathLike) else model_or_path
    evaluate: Any = lm_eval.simple_evaluate  # its decorator hides its parameters
    return evaluate(
        model="ctxext",
        model_args={"pretrained": path, **{k: v for k, v in asked.items() if v is not None}},
        tasks=list(tasks),
        limit=limit,
        metadata=metadata,
    )
