"""Reasoning models: what they write before they answer is no answer, and may be cut by the budget.

A model reasons where `think_end_token` says so, where the prompt ends inside an open `<think>`, or
where it opens one itself. An answer is what follows the end of the reasoning. Reasoning that never
ended is no answer: an empty one, counted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import StoppingCriteria

from ctxbench.core.lengths import parse_length

log = logging.getLogger(__name__)

OPEN, CLOSE = "<think>", "</think>"


class Answer(NamedTuple):
    """What follows the reasoning; `cut`: it never ended, so there is none."""

    text: str
    cut: bool = False


def tokens_of_reasoning(given: Any) -> int | None:
    """Return the budget of reasoning, tokens.

    Raises:
        ValueError: it is no number of tokens.
    """
    if given is None or isinstance(given, int):
        return given
    text = str(given).strip()
    return int(text) if text.lstrip("-").isdecimal() else parse_length(text)


class Reasoning:
    """Takes answers out of what a model generates.

    Args:
        tokenizer: of the model.
        end: text or id of the token that ends reasoning; None: `</think>`, of a model that opens
            `<think>`.
        tokens: budget for reasoning, besides that of the answer; None: not stated.

    Raises:
        ValueError: `end` is no token of the tokenizer, or `tokens` is negative.
    """

    def __init__(self, tokenizer: Any, end: str | int | None, tokens: int | None):
        self.tokenizer = tokenizer
        self.end = end
        self.tokens = tokens
        if isinstance(end, int) and not 0 <= end < len(tokenizer):
            raise ValueError(
                f"think_end_token={end} is no token: the tokenizer has {len(tokenizer)}. Give the "
                "id or the text of the token that ends reasoning."
            )
        if end == "":
            raise ValueError(
                "think_end_token is an empty text. Give the text or the id of the token that ends "
                "reasoning, or leave it out."
            )
        if tokens is not None and tokens < 0:
            raise ValueError(f"reasoning_tokens={tokens} is negative. Give 0 or more.")
        self._open = end.replace("</", "<") if isinstance(end, str) and "</" in end else OPEN
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        self._marks = {str(token) for token in added} - {self._open}
        self._known = CLOSE in self._marks
        self._said: set[str | None] = set()  # tasks

    @property
    def possible(self) -> bool:
        """Whether answers may come after reasoning: stated, or the tokenizer has its tokens."""
        return self.end is not None or self._known

    def is_open(self, prompt: str) -> bool:
        """Return whether a prompt ends inside reasoning."""
        return self._after_open(prompt) is not None

    def budget(self, prompts: Sequence[str], task: str | None) -> int:
        """Return the tokens for reasoning before the answers to prompts; warns if none are stated.

        Raises:
            ValueError: a prompt goes on after an open `<think>`: the answer's beginning that the
                task gives would stand inside the reasoning.
        """
        inside = [text for prompt in prompts if (text := self._after_open(prompt)) is not None]
        if began := next((text for text in inside if text.strip()), None):
            raise ValueError(
                f"Task {task or '?'} gives the beginning of the answer ({began.strip()[-60:]!r}), "
                "and the chat template puts it inside the reasoning that it opens. Give the model "
                "argument enable_thinking=False, or chat_template_args that close the reasoning; "
                "or choose a task without such a beginning."
            )
        if self.end is None and not inside:
            return 0
        if self.tokens is None and task not in self._said:
            self._said.add(task)
            log.warning(
                "Answers of task %s come after reasoning, which has no tokens of its own: what the "
                "task allows for an answer is all there is. Give the model argument "
                "reasoning_tokens=N (0 says that this is meant).",
                task or "?",
            )
        return self.tokens or 0

    def answer(self, new: list[int], inside: bool, finished: bool) -> Answer:
        """Return what of generated tokens is the answer, before stop strings are looked for.

        Args:
            new: the generated tokens.
            inside: whether the prompt ended inside reasoning.
            finished: whether the model ended by itself, before its budget.
        """
        opened = inside or self.opens(new)
        if self.end is None and not opened:
            return Answer(self._text(new))
        after = self.after(new)
        if after is not None:
            return Answer(after)
        return Answer("", cut=True) if opened or not finished else Answer(self._text(new))

    def may_have_ended(self, new: list[int]) -> bool:
        """Return False where no token ends reasoning, without making text of a long one."""
        end = self._id(self.end or CLOSE) if not isinstance(self.end, int) else self.end
        return end is None or end in new

    def after(self, new: list[int]) -> str | None:
        """Return the text after the last end of reasoning; None: it did not end."""
        if isinstance(self.end, int):
            if self.end not in new:
                return None
            return self._text(new[len(new) - new[::-1].index(self.end) :]).lstrip()
        end, text = self.end or CLOSE, self._text(new)
        if end in text:
            return text.split(end)[-1].lstrip()
        if (token := self._id(end)) is not None and token in new:  # which the text does not show
            return self._text(new[len(new) - new[::-1].index(token) :]).lstrip()
        return None

    def stopping(self, until: Sequence[str], width: int, inside: Sequence[bool]) -> Any:
        """Return criteria that end rows at stop strings of the answer, not of the reasoning.

        Args:
            until: the stop strings.
            width: tokens of the padded prompts.
            inside: of each row, whether its prompt ended inside reasoning.
        """
        return _StopAfterReasoning(self, until, width, inside)

    def opens(self, new: list[int]) -> bool:
        """Return whether an answer begins with reasoning."""
        first = self.tokenizer.decode(new[:16], skip_special_tokens=False)
        return first.lstrip().startswith(self._open)

    def _id(self, token: str) -> int | None:
        found = self.tokenizer.convert_tokens_to_ids(token) if token in self._marks else None
        return found if isinstance(found, int) else None

    def _text(self, new: list[int]) -> str:
        return self.tokenizer.decode(new, skip_special_tokens=True)

    def _after_open(self, prompt: str) -> str | None:
        """Return what follows a `<think>` that a prompt leaves open; None: it leaves none."""
        if not getattr(self.tokenizer, "chat_template", None):
            return None
        _, opened, after = prompt.rpartition(self._open)
        closed = any(mark in after for mark in (CLOSE, *self._marks))
        return after if opened and not closed else None


class _StopAfterReasoning(StoppingCriteria):
    def __init__(
        self, reasoning: Reasoning, until: Sequence[str], width: int, inside: Sequence[bool]
    ):
        self.reasoning = reasoning
        self.until = [text for text in until if text]
        self.width = width
        self.inside = inside

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return for each row whether its answer holds a stop string."""
        rows = input_ids[:, self.width :].tolist()
        done = [self._done(new, inside) for new, inside in zip(rows, self.inside, strict=True)]
        return torch.tensor(done, device=input_ids.device)

    def _done(self, new: list[int], inside: bool) -> bool:
        begun = inside or self.reasoning.end is not None or self.reasoning.opens(new)
        if begun and not self.reasoning.may_have_ended(new):
            return False
        text, cut = self.reasoning.answer(new, inside, finished=False)
        return not cut and any(stop in text for stop in self.until)
