"""A method under test, on tiny random models in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from ctxbench.methods.attach import method_of
from ctxbench.methods.base import Method, describe
from ctxbench.models.loading import extend
from ctxbench.validate.checks import Broken
from ctxbench.validate.tiny import WINDOW, tiny_model

ROUNDING = 5e-5
"""float32 logits of size up to 10: the same sums in another order."""


@dataclass(frozen=True)
class Subject:
    """A method with options on one architecture.

    Attributes:
        name: of the method or preset.
        options: of the method.
        architecture: of the tiny model, a key of `tiny.ARCHITECTURES`.
        length: window at evaluation, tokens; the tiny models hold 64 without the method.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    architecture: str = "llama"
    length: int = 4 * WINDOW

    def extended(self, **options: Any) -> Any:
        """Return a new tiny model with the method, its options changed by `options`."""
        model = self.base()
        return extend(model, self.name, **{"length": self.length, **self.options, **options})

    def base(self) -> Any:
        """Return a new tiny model without the method."""
        return tiny_model(self.architecture, initializer_range=0.1)

    @cached_property
    def model(self) -> Any:
        """One model with the method, for checks that leave it as it is."""
        return self.extended()

    @property
    def method(self) -> Method:
        """The resolved method of `model`."""
        return method_of(self.model)

    @property
    def title(self) -> str:
        """What is checked, in words."""
        return f"method {describe(self.method)} on a random {self.architecture} of 2 layers"


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor, length: int | None = None, **kwargs: Any):
    """Return `[batch, new, vocabulary]`, the request's final length pinned."""
    rows = [length or ids.shape[1]] * len(ids)
    with method_of(model).begin_request(model, rows):
        return model(ids, **kwargs).logits


def compare(found: torch.Tensor, expected: torch.Tensor, what: str, atol: float = ROUNDING):
    """Raise `Broken` if logits differ by more than `atol`."""
    difference = float((found - expected).abs().max())
    if not difference <= atol:  # also where it is nan
        raise Broken(f"{what}: logits differ by {difference:.2g} (allowed: {atol:g})")
