"""What fits the window, what is cut, and how often: nothing is truncated silently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ctxbench.models.requests import ScoringRequest


class ContextWindow:
    """The window of an evaluation and the requests that did not fit it.

    Attributes:
        length: tokens.
        special_tokens: that the tokenizer adds to a text; they may stand beyond the window.
    """

    def __init__(self, length: int, special_tokens: int):
        self.length = length
        self.special_tokens = special_tokens
        self._counts: Counter[str] = Counter()

    def counts(self) -> dict[str, int]:
        """Return what did not fit so far, as results carry it."""
        return {
            "special_tokens_beyond_length": self._counts["special"],
            "truncated_prompts": self._counts["truncated"],
            "truncated_tokens": self._counts["truncated_tokens"],
            "prompts_beyond_length": self._counts["beyond"],
        }

    def check(self, sizes: Iterable[tuple[int, str | None]]) -> None:
        """Check that requests fit, all at once, before the first of them costs time.

        Args:
            sizes: tokens and task of each.

        Raises:
            ValueError: some do not; says how many of which task, and the longest.
        """
        too_long: dict[str, list[int]] = {}
        for tokens, task in sizes:
            if tokens > self.length + self.special_tokens:
                too_long.setdefault(task or "?", []).append(tokens)
        if not too_long:
            return
        tasks = ", ".join(
            f"{len(found)} of task {task} (up to {max(found)} tokens)"
            for task, found in too_long.items()
        )
        longest = max(map(max, too_long.values()))
        raise ValueError(
            f"Requests need up to {longest} tokens, but the window is {self.length} tokens (model "
            f"argument length): {tasks}. Nothing is truncated silently: give a larger length, a "
            "task made for this length, or truncation=True to drop tokens from the left."
        )

    def fit(self, requests: Sequence[ScoringRequest], *, truncate: bool) -> list[ScoringRequest]:
        """Return requests with the length that sets their frequencies.

        Args:
            requests: to score.
            truncate: drop tokens from the left of a context that is too long.

        Raises:
            ValueError: some do not fit.
        """
        if not truncate:
            self.check((request.size, request.task) for request in requests)
            cut = requests
        else:
            cut = []
            for request in requests:
                context, scored = request.ids[: request.first], request.ids[request.first :]
                kept = self.truncate(context, len(scored), "left")
                cut.append(replace(request, ids=[*kept, *scored], first=len(kept)))
        return [replace(r, length=self.final_length(r.size, r.task)) for r in cut]

    def final_length(self, tokens: int, task: str | None, overflow: str = "error") -> int:
        """Return the length that sets a request's frequencies.

        Special tokens that the tokenizer adds beyond the window are allowed, counted, and do not
        stretch the frequencies.

        Raises:
            ValueError: the request does not fit the window.
        """
        if overflow != "allow":
            self.check([(tokens, task)])
        excess = tokens - self.length
        if excess <= 0:
            return tokens
        if excess <= self.special_tokens:
            self._counts["special"] += 1
            return self.length
        self._counts["beyond"] += 1
        return tokens

    def room(self, after: int) -> int:
        """Return how many tokens may stand before `after` others."""
        return self.length - after + self.special_tokens

    def check_room(self, new_tokens: int, task: str | None) -> None:
        """Check that a prompt has room before the new tokens.

        Raises:
            ValueError: it has not.
        """
        if self.room(new_tokens) < 1:
            raise ValueError(
                f"Task {task or '?'} generates up to {new_tokens} tokens, which leaves no room "
                f"for a prompt in the window of {self.length} tokens. Give a larger length."
            )

    def truncate(self, ids: Sequence[int], after: int, overflow: str) -> Sequence[int]:
        """Return what is kept of tokens that stand before `after` others.

        Args:
            ids: of a prompt or a context.
            after: tokens that follow them and are kept whole.
            overflow: `left` or `middle`: where to cut if they are too many; else they are kept.
        """
        room = self.room(after)
        excess = len(ids) - room
        if excess <= 0 or overflow not in ("left", "middle"):
            return ids
        self._counts["truncated"] += 1
        self._counts["truncated_tokens"] += excess
        if overflow == "left":
            return ids[excess:]
        return [*ids[: room // 2], *ids[len(ids) - (room - room // 2) :]]
