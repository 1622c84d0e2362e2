"""What is asked of an engine: tokens to score, or a prompt to continue."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Origin(NamedTuple):
    """What a request comes from: messages say it, and nothing is counted twice.

    Attributes:
        task: its name.
        document: its number in the task.
        part: number of the request among those of the document.
    """

    task: str | None = None
    document: int | None = None
    part: int = 0


NOWHERE = Origin()


def counted_by(origin: Origin) -> Hashable:
    """Return what a request is counted by; one of unknown origin is like no other."""
    return origin if origin.task is not None else object()


def origin_of(request: Any) -> Origin:
    """Return where a request of lm-eval comes from."""
    return Origin(request.task_name, request.doc_id, request.idx)


@dataclass(frozen=True)
class ScoringRequest:
    """Tokens of which the last ones are scored.

    Attributes:
        ids: context and continuation.
        first: index of the first scored token; at least 1, it is predicted from the one before.
        length: final length that sets the frequencies; default `len(ids)`.
        origin: what asked for it.
    """

    ids: Sequence[int]
    first: int
    length: int | None = None
    origin: Origin = NOWHERE

    @property
    def fed(self) -> Sequence[int]:
        """What the model reads: all but the last token."""
        return self.ids[:-1]

    @property
    def final_length(self) -> int:
        """Length that sets the frequencies, tokens."""
        return self.length or len(self.ids)

    @property
    def size(self) -> int:
        """Tokens in all."""
        return len(self.ids)


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt to continue.

    Attributes:
        ids: its tokens.
        final_length: that sets the frequencies: prompt and new tokens.
        origin: what asked for it.
        reasoning: whether the prompt ends inside reasoning.
    """

    ids: Sequence[int]
    final_length: int
    origin: Origin = NOWHERE
    reasoning: bool = False

    @property
    def size(self) -> int:
        """Tokens in all, new ones included."""
        return self.final_length
