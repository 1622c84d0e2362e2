"""What requests take of the window, found out before the first of them costs time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ctxbench.core.windows import WindowedText
from ctxbench.models.context_window import ContextWindow
from ctxbench.models.generation_settings import GenerationSettings

Groups = Callable[[Sequence[Any]], Iterable[tuple[GenerationSettings, Sequence[int]]]]


class RequestSizes:
    """Counts the tokens of lm-eval's requests and remembers them, not the texts.

    A task asks when its requests are built, and the same requests come again to be answered.

    Args:
        window: they must fit.
        prompt: returns the tokens of a prompt.
        scored: returns those of a request that scores, context and continuation.
        groups: returns generation settings with the numbers of the requests that share them.
        truncates: what scores and does not fit will be cut.
    """

    def __init__(
        self,
        window: ContextWindow,
        *,
        prompt: Callable[[str], int],
        scored: Callable[[Any], int],
        groups: Groups,
        truncates: bool,
    ):
        self._window = window
        self._prompt = prompt
        self._scored = scored
        self._groups = groups
        self._truncates = truncates
        self._known: dict[int, int] = {}

    def of(self, requests: Sequence[Any]) -> list[int]:
        """Return the tokens that each request takes, its answer included.

        A text that the model itself lays windows over takes no more than its window.

        Raises:
            ValueError: one does not fit, and may not be cut.
        """
        found: dict[int, int] = {}
        for kind, sizes in (
            ("generate_until", self._generated),
            ("loglikelihood", self._scoring),
            ("loglikelihood_rolling", self._rolling),
        ):
            numbers = [n for n, request in enumerate(requests) if request.request_type == kind]
            found.update(zip(numbers, sizes([requests[n] for n in numbers]), strict=True))
        return [found[number] for number in range(len(requests))]

    def _generated(self, requests: Sequence[Any]) -> list[int]:
        found: dict[int, int] = {}
        whole: list[int] = []  # requests that may not be cut
        for settings, numbers in self._groups(requests):
            for number in numbers:
                size = self._of_prompt(requests[number].args[0])
                found[number] = size + settings.new_tokens
            whole += numbers if settings.overflow == "error" else []
        self._check([found[n] for n in whole], [requests[n] for n in whole])
        return [found[number] for number in range(len(requests))]

    def _scoring(self, requests: Sequence[Any]) -> list[int]:
        sizes = [self._of_scored(request) for request in requests]
        if not self._truncates:
            self._check(sizes, requests)
        return sizes

    def _rolling(self, requests: Sequence[Any]) -> list[int]:
        sizes = [self._of_windows(request.args[0]) for request in requests]
        self._check(sizes, requests)
        return sizes

    def _check(self, sizes: Sequence[int], requests: Sequence[Any]) -> None:
        self._window.check(zip(sizes, (r.task_name for r in requests), strict=True))

    def _of_windows(self, text: str) -> int:
        if isinstance(text, WindowedText):
            return max(end - start for start, _, end in text.windows)
        return min(self._of_prompt(text), self._window.length)

    def _of_prompt(self, text: str) -> int:
        key = hash(text)
        if key not in self._known:
            self._known[key] = self._prompt(text)
        return self._known[key]

    def _of_scored(self, request: Any) -> int:
        key = hash(request.args)
        if key not in self._known:
            self._known[key] = self._scored(request)
        return self._known[key]
