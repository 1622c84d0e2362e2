"""What fits the window, what is cut, and how often: nothing is truncated silently."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

from ctxbench.models.requests import NOWHERE, Origin, ScoringRequest, counted_by


class ContextWindow:
    """The window of an evaluation and the requests that did not fit it.

    Attributes:
        length: tokens.
        special_tokens: that the tokenizer adds to a text; they may stand beyond the window.
        bos: token that a text begins with; it is never cut.
        grows: it is as long as the longest request; nobody said how long it should be.
    """

    def __init__(
        self, length: int, special_tokens: int, bos: int | None = None, *, grows: bool = False
    ):
        self.length = length
        self.grows = grows
        self.special_tokens = special_tokens
        self.bos = bos
        self._cut: dict[Hashable, int] = {}
        self._special: set[Hashable] = set()
        self._beyond: set[Hashable] = set()

    def forget(self) -> None:
        """Begin to count anew."""
        self._cut, self._special, self._beyond = {}, set(), set()

    def counts(self) -> dict[str, int]:
        """Return what did not fit so far, as results carry it; each request counts once."""
        return {
            "special_tokens_beyond_length": len(self._special),
            "truncated_prompts": len(self._cut),
            "truncated_tokens": sum(self._cut.values()),
            "prompts_beyond_length": len(self._beyond),
        }

    def check(self, sizes: Iterable[tuple[int, str | None]]) -> None:
        """Check that requests fit, all at once, before the first of them costs time.

        Args:
            sizes: tokens and task of each.

        Raises:
            ValueError: some do not; says how many of which task, and the longest.
        """
        sizes = list(sizes)
        if self.grows:  # to a power of two, as tasks have them
            longest = max((size for size, _ in sizes), default=0)
            self.length = max(self.length, 1 << max(longest - 1, 0).bit_length())
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
            self.check((request.size, request.origin.task) for request in requests)
            cut = requests
        else:
            cut = []
            for request in requests:
                self.check([(request.size - request.first + 1, request.origin.task)])
                context, scored = request.ids[: request.first], request.ids[request.first :]
                kept = self.truncate(context, len(scored), "left", request.origin)
                cut.append(replace(request, ids=[*kept, *scored], first=len(kept)))
        return [replace(r, length=self.final_length(r.size, r.origin)) for r in cut]

    def final_length(self, tokens: int, origin: Origin = NOWHERE, overflow: str = "error") -> int:
        """Return the length that sets a request's frequencies.

        Special tokens that the tokenizer adds beyond the window are allowed, counted, and do not
        stretch the frequencies.

        Raises:
            ValueError: the request does not fit the window.
        """
        if overflow != "allow":
            self.check([(tokens, origin.task)])
        excess = tokens - self.length
        if excess <= 0:
            return tokens
        if excess <= self.special_tokens:
            self._special.add(counted_by(origin))
            return self.length
        self._beyond.add(counted_by(origin))
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

    def truncate(
        self, ids: Sequence[int], after: int, overflow: str, origin: Origin = NOWHERE
    ) -> Sequence[int]:
        """Return what is kept of tokens that stand before `after` others.

        Args:
            ids: of a prompt or a context.
            after: tokens that follow them and are kept whole.
            overflow: `left` or `middle`: where to cut if they are too many; else they are kept.
            origin: of the request.
        """
        room = self.room(after)
        excess = len(ids) - room
        if excess <= 0 or overflow not in ("left", "middle"):
            return ids
        self._cut[counted_by(origin)] = excess
        first = room // 2 if overflow == "middle" else 0
        if ids[0] == self.bos and room:
            first = max(first, 1)
        return [*ids[:first], *ids[len(ids) - (room - first) :]]
