"""What is asked of an engine: tokens to score, or a prompt to continue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ScoringRequest:
    """Tokens of which the last ones are scored.

    Attributes:
        ids: context and continuation.
        first: index of the first scored token; at least 1, it is predicted from the one before.
        length: final length that sets the frequencies; default `len(ids)`.
        task: its name, for messages.
        document: its number in the task.
    """

    ids: Sequence[int]
    first: int
    length: int | None = None
    task: str | None = None
    document: int | None = None

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
        task: its name, for messages.
        document: its number in the task.
        reasoning: whether the prompt ends inside reasoning.
    """

    ids: Sequence[int]
    final_length: int
    task: str | None = None
    document: int | None = None
    reasoning: bool = False

    @property
    def size(self) -> int:
        """Tokens in all, new ones included."""
        return self.final_length
