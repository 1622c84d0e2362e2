"""What trains, said before it starts; and that it does train, seen in the first updates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from ctxbench.train.parallel import Ranks

UPDATES = 3
"""Updates at a rate above 0 within which every tensor has a gradient; the second matrix of an
adapter, zero at the start, hides the first one from one of them."""
DRAWN_UPDATES = 32
"""The same for a method's own tensors, which what it draws may leave out (CLEX at stretch 1)."""
_NAMED = 8


class GradientWatch:
    """Looks at the gradients of the first updates.

    Args:
        trained: what training changes, by name.
        own: names of those that a method adds to the weights.
        ranks: the processes; all have to look.
    """

    def __init__(self, trained: Mapping[str, torch.Tensor], own: Collection[str], ranks: Ranks):
        self._unseen = {name: t for name, t in trained.items() if t.requires_grad}
        self._own, self._ranks = own, ranks
        self._updates = 0
        self._begun: dict[str, torch.Tensor] = {}

    def look(self, rate: float) -> None:
        """Look at the gradients of an update, after its backward passes.

        Args:
            rate: its learning rate; updates at 0 do not count.

        Raises:
            ValueError: a tensor that trains still had no gradient; the message names it.
        """
        if self._ranks.deepspeed or not rate or self._updates == DRAWN_UPDATES:
            return
        self._updates += 1
        if self._updates == 1:
            self._begun = {name: _digest(t) for name, t in self._unseen.items()}
        if not self._unseen:
            return
        found = torch.stack([_has_gradient(t) for t in self._unseen.values()]).double()
        flags = (self._ranks.total(found) > 0).tolist()
        names = list(self._unseen)
        for name, seen in zip(names, flags, strict=True):
            if seen:
                del self._unseen[name]
        self._refuse([name for name in self._unseen if self._updates >= self._patience(name)])

    def unmoved(self, trained: Mapping[str, torch.Tensor]) -> list[str]:
        """Return which tensors are bit for bit what they were, once, after `UPDATES` updates."""
        if self._updates < UPDATES or not self._begun:
            return []
        same = [n for n, before in self._begun.items() if torch.equal(before, _digest(trained[n]))]
        self._begun = {}
        return same

    def _patience(self, name: str) -> int:
        return DRAWN_UPDATES if name in self._own else UPDATES

    def _refuse(self, names: list[str]) -> None:
        if names:
            raise ValueError(
                f"{listed(names)} had no gradient in {self._updates} updates, so nothing would "
                "train there. Everything that is trained must be used by the model. Leave it out "
                "of --lora-targets, --lora-also or the method's options, or freeze it in the "
                "method's trainable()."
            )


def refuse_bad_weights(trained: Mapping[str, torch.Tensor], ranks: Ranks, step: int) -> None:
    """Refuse to save or export weights that are no numbers; all processes have to ask.

    Raises:
        ValueError: naming them.
    """
    bad = torch.stack([~torch.isfinite(_local(tensor)).all() for tensor in trained.values()])
    counts = ranks.total(bad.double()).tolist()
    if names := [name for name, count in zip(trained, counts, strict=True) if count]:
        raise ValueError(
            f"{listed(names)} has entries that are no numbers after step {step}. Weights must be "
            "numbers; nothing of them was saved, and earlier checkpoints are as they were. Lower "
            "--lr, and begin again with another --output."
        )


def listed(names: Collection[str]) -> str:
    """Return names for a message, the first few."""
    shown = list(names)[:_NAMED]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more


def describe_trained(model: nn.Module, trained: Mapping[str, torch.Tensor]) -> list[str]:
    """Return lines that say what trains: a count, then equal tensors of all layers in one line."""
    every = sum(p.numel() for p in model.parameters())
    count = sum(t.numel() for t in trained.values())
    kinds = Counter(
        (re.sub(r"\.\d+(?=\.)", ".*", name), tuple(tensor.shape))
        for name, tensor in trained.items()
    )
    head = f"Trains {len(trained)} tensors, {count:,} of {every:,} parameters:"
    return [head, *(f"  {n} x {name} {list(shape)}" for (name, shape), n in kinds.items())]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _has_gradient(tensor: torch.Tensor) -> torch.Tensor:
    gradient = tensor.grad
    if gradient is None:
        return torch.zeros((), dtype=torch.bool, device=_local(tensor).device)
    return _local(gradient).any()


def _digest(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of the bits of this process's part."""
    return _local(tensor).detach().contiguous().view(torch.int32).sum(dtype=torch.int64)
