"""An exponential moving average of the trained weights; a switch that is off.

Lu et al. 2024 mention one without its decay, and their code has none. With d the decay, step t uses
`min(d, (1 + t) / (10 + t))`, so that a short run is not an average of the base model.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class MovingAverage:
    """Averages of tensors, float32; does nothing with decay 0."""

    def __init__(self, decay: float, tensors: Mapping[str, torch.Tensor]):
        self.decay = decay
        self._source = tensors
        self.tensors: dict[str, torch.Tensor] = (
            {name: t.detach().float().clone() for name, t in tensors.items()} if decay else {}
        )

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the tensors after update `step`, counted from 0."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, average in self.tensors.items():
            average.lerp_(self._source[name].to(average), rate)

    @torch.no_grad()
    def load(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Continue from saved averages."""
        for name, average in self.tensors.items():
            average.copy_(saved[name])

    @torch.no_grad()
    def swap(self) -> None:
        """Put the averages in place of the tensors, and these in theirs; twice changes nothing."""
        for name, average in self.tensors.items():
            current = self._source[name].detach().clone()
            self._source[name].copy_(average)
            average.copy_(current)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have the averages in place of the tensors inside the block."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
