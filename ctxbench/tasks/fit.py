"""Whether prompts fit the model's window: decided once, on the final strings, before a run.

A string is final after chat template, prefix and few-shot examples, when lm-eval has built a task's
requests. `ctxext` is asked itself; of other models it is found out with their own tokenizer, since
lm-eval would cut what is too long without a word that a result carries.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ctxbench.core.processes import from_all
from ctxbench.core.windows import WRONG_MODEL, WindowedText, looks_ahead
from ctxbench.tasks.model_window import model_window
from ctxbench.tasks.tokenizer import count_tokens, load_tokenizer, tokenizer_name

log = logging.getLogger(__name__)

_NEAR = 8
"""Tokens by which two texts together may differ from the sum of both."""


@dataclass(frozen=True)
class PromptSizes:
    """What a task's requests take, as results carry it.

    Attributes:
        requests: how many.
        longest: tokens, answer included.
        window: of the model, tokens; None: it is not known.
        beyond_window: requests that take more than it.
        truncated_documents: of which the task itself left something out.
    """

    requests: int
    longest: int
    window: int | None
    beyond_window: int
    truncated_documents: int

    def recorded(self) -> dict[str, Any]:
        """Return the entry of the task's metadata."""
        return {**asdict(self), "window": self.window or "unknown"}


def look_at(task: str, instances: Sequence[Any], metadata: dict[str, Any], model: Any):
    """Return the sizes of a task's requests on all processes together.

    Args:
        task: its name.
        instances: its requests, of this process.
        metadata: of the task.
        model: of lm-eval, None where none is in use.

    Raises:
        ValueError: a request does not fit, on this process or another.
    """
    try:
        sizes, error = _sizes(task, instances, metadata, model), ""
    except ValueError as found:
        sizes, error = [], str(found)
    window = _window(instances, metadata, model)
    truncated = {each.doc_id for each in instances if each.doc.get("truncated")}
    mine = (sizes, len(truncated), error)
    everyone = from_all(mine, getattr(model, "world_size", 1))
    if failed := next((error for *_, error in everyone if error), None):
        raise ValueError(failed)
    found = [size for sizes, *_ in everyone for size in sizes]
    beyond = sum(size > window for size in found) if window else 0
    return PromptSizes(
        len(found), max(found), window, beyond, sum(count for _, count, _ in everyone)
    )


def _sizes(task: str, instances: Sequence[Any], metadata: dict[str, Any], model: Any) -> list[int]:
    if looks_ahead(model):
        return model.request_sizes(instances)
    theirs = type(model).__module__.startswith("lm_eval.")
    if theirs and any(isinstance(each.args[0], WindowedText) for each in instances):
        raise ValueError(WRONG_MODEL)
    window = _window(instances, metadata, model)
    sizes = _Counter(metadata, model).sizes(instances, window)
    if window is None:
        _say_unknown(task, model)
    elif max(sizes) > window + _slack(instances, model):
        raise ValueError(_too_long(task, sizes, window, metadata, model, instances))
    return sizes


def _window(instances: Sequence[Any], metadata: dict[str, Any], model: Any) -> int | None:
    scores = any(each.request_type == "loglikelihood" for each in instances)
    return model_window(metadata, model, scores=scores)


def _slack(instances: Sequence[Any], model: Any) -> int:
    """Return the tokens beyond its window that a model takes: HFLM never feeds the last scored."""
    own = any(cls.__name__ == "HFLM" for cls in type(model).__mro__)
    return int(own and all(each.request_type == "loglikelihood" for each in instances))


def _say_unknown(task: str, model: Any) -> None:
    name = type(model).__name__ if model is not None else "that will be evaluated"
    log.warning(
        "%s: whether the prompts fit is not known, since the window of the model %s is not. A "
        "harness may cut them silently. Say it in the model argument max_length=N (a server), or "
        "--metadata '{\"max_length\": N}'.", task, name,
    )  # fmt: skip


def _too_long(
    task: str,
    sizes: Sequence[int],
    window: int,
    metadata: dict[str, Any],
    model: Any,
    instances: Sequence[Any],
) -> str:
    beyond = [size for size in sizes if size > window]
    special = _Counter(metadata, model).special_tokens
    if any("ctx_overflow" in _options(each) for each in instances):
        what = (
            "They are meant to pass the window, as in the paper's runs, which the model type "
            "ctxext can and this one cannot. Take --model ctxext, or metadata budget=official."
        )
    elif max(beyond) <= window + special and _has_strict(task, metadata):
        what = (
            f"They are over by the {special} special tokens that the tokenizer adds, which the "
            'official code does not count. Give --metadata \'{"fidelity": "strict"}\', which '
            "counts them, or --model ctxext, which runs them as they are."
        )
    else:
        what = (
            "lm-eval would cut them silently. Take a shorter task or a model with a longer window "
            "(--model ctxext with method=... and length=...; a server: max_length=N). A chat "
            "template is counted with --metadata '{\"chat\": true}'."
        )
    return (
        f"{len(beyond)} of {len(sizes)} requests of {task} do not fit the window of the model, "
        f"{window} tokens: with their answers they take up to {max(beyond)}. {what}"
    )


def _has_strict(task: str, metadata: dict[str, Any]) -> bool:
    return task.startswith("ruler") and metadata.get("fidelity") != "strict"


def _options(instance: Any) -> dict[str, Any]:
    """Return the generation arguments of a request, none of one that scores."""
    return instance.args[1] if instance.request_type == "generate_until" else {}


class _Counter:
    """Counts tokens as a model of lm-eval will make them, or as its tokenizer does."""

    def __init__(self, metadata: dict[str, Any], model: Any):
        encode = getattr(model, "tok_encode", None)
        # one on a server may have none; lm-eval's dummy would fetch one
        known = encode is not None and getattr(model, "tokenizer", None) is not None
        self._encode = encode if known else None
        self._metadata = metadata
        self._answer = int(getattr(model, "max_gen_toks", 256) or 256)
        self._kept: dict[str, int] = {}

    @property
    def special_tokens(self) -> int:
        """Tokens that the tokenizer adds to a text."""
        return self.count("")

    def sizes(self, instances: Sequence[Any], window: int | None) -> list[int]:
        """Return the tokens of each request; exact where it is near the window."""
        return [self._size(each, window) for each in instances]

    def _size(self, instance: Any, window: int | None) -> int:
        if isinstance(instance.args[0], WindowedText):
            return max(end - start for start, _, end in instance.args[0].windows)
        if instance.request_type == "generate_until":
            new = _options(instance).get("max_gen_toks", self._answer)
            return self.count(instance.args[0]) + int(new)
        context, continuation = instance.args
        size = self.count(context) + self.count(continuation) - self.special_tokens
        if window is not None and abs(size - window) > _NEAR:
            return size
        return self._whole(context + continuation)

    def count(self, text: Any) -> int:
        """Return the tokens of a text, special ones included; the last ones are remembered."""
        if text not in self._kept:
            if len(self._kept) > 256:
                self._kept.clear()
            self._kept[text] = self._whole(text)
        return self._kept[text]

    def _whole(self, text: Any) -> int:
        if not isinstance(text, str):  # messages, which a server makes a prompt of
            text = text.prompt
        elif self._encode is not None:
            return len(self._encode(text))
        tokenizer = load_tokenizer(tokenizer_name(**self._metadata))
        return count_tokens(tokenizer, text, special_tokens=True)
