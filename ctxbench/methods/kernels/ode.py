"""A 3/8-rule Runge-Kutta solver for `dy/dt = act((y + a(t)) U) D + b(t)`, with gradients.

One hidden layer, state small: a step is a few products of vectors, and a general autograd graph
over thousands of them would cost a hundred times their arithmetic. The backward pass is the exact
adjoint of the discrete steps. float64 on the CPU. The rule is torchdiffeq's `rk4`
(rtqichen/torchdiffeq 0.2.5 torchdiffeq/_impl/rk_common.py:108).

Legend: S steps, 4 stages, D state, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Array = np.ndarray


def stage_times(begin: float, end: float, step: float) -> tuple[Array, Array]:
    """Return step sizes `[S]` and the times of the stages `[S, 4]` from begin to end.

    Steps have the asked size but the last, which ends at the end.
    """
    count = max(int(np.ceil((end - begin) / step - 1e-9)), 0)
    grid = np.append(begin + step * np.arange(count), end)
    sizes = np.diff(grid)
    times = grid[:-1, None] + sizes[:, None] * np.array([0, 1 / 3, 2 / 3, 1])
    return sizes, times


def solve(
    state: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
    sizes: Array,
    inputs: Array,
    drift: Array,
    activation: str,
) -> torch.Tensor:
    """Return the state after all steps, `[D]` float64 on the CPU; differentiable in all tensors.

    Args:
        state: `[D]` at the start.
        up: `[D, H]`.
        down: `[H, D]`.
        sizes: of the steps, `[S]`.
        inputs: `a` at the stages, `[S, 4, D]`.
        drift: `b` at the stages, `[S, 4, D]`.
        activation: `silu` or `tanh`.
    """
    tensors = [t.to("cpu", torch.float64) for t in (state, up, down)]
    return _Solve.apply(*tensors, sizes, inputs, drift, activation)  # type: ignore[return-value]


def _tanh(u: Array) -> tuple[Array, Array]:
    value = np.tanh(u)
    return value, 1 - value**2


def _silu(u: Array) -> tuple[Array, Array]:
    gate = 1 / (1 + np.exp(-u))
    value = u * gate
    return value, gate + value * (1 - gate)


ACTIVATIONS: dict[str, Callable[[Array], tuple[Array, Array]]] = {"silu": _silu, "tanh": _tanh}
"""Name -> value and derivative."""


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        state: torch.Tensor,
        up: torch.Tensor,
        down: torch.Tensor,
        sizes: Array,
        inputs: Array,
        drift: Array,
        activation: str,
    ) -> torch.Tensor:
        """Run the steps and keep the input of every stage."""
        weights = up.detach().numpy(), down.detach().numpy()
        act = ACTIVATIONS[activation]
        seen_S4D = np.empty((len(sizes), 4, len(state)))
        y = state.detach().numpy().copy()

        def slope(s: int, stage: int, at: Array) -> Array:
            seen_S4D[s, stage] = x = at + inputs[s, stage]
            return act(x @ weights[0])[0] @ weights[1] + drift[s, stage]

        for s, h in enumerate(sizes):
            k1 = slope(s, 0, y)
            k2 = slope(s, 1, y + h / 3 * k1)
            k3 = slope(s, 2, y + h * (k2 - k1 / 3))
            k4 = slope(s, 3, y + h * (k1 - k2 + k3))
            y = y + h / 8 * (k1 + 3 * (k2 + k3) + k4)
        ctx.saved = *weights, sizes, seen_S4D, act
        return torch.from_numpy(y)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Run the steps in reverse; gradients of the weights are two products at the end."""
        up, down, sizes, seen_S4D, act = ctx.saved
        value_S4H, derivative_S4H = act(seen_S4D @ up)
        into_S4D = np.empty_like(seen_S4D)  # gradient of each stage's slope
        inner_S4H = np.empty_like(value_S4H)  # and of its hidden layer before the activation
        g = grad_outputs[0].detach().cpu().numpy().astype(np.float64)

        def back(s: int, stage: int, gradient: Array) -> Array:
            into_S4D[s, stage] = gradient
            inner_S4H[s, stage] = inner = (gradient @ down.T) * derivative_S4H[s, stage]
            return inner @ up.T

        for s in reversed(range(len(sizes))):
            h = sizes[s]
            y4 = back(s, 3, h / 8 * g)
            y3 = back(s, 2, h * (3 / 8 * g + y4))
            y2 = back(s, 1, h * (3 / 8 * g - y4 + y3))
            y1 = back(s, 0, h * (1 / 8 * g + y4 - y3 / 3 + y2 / 3))
            g = g + y1 + y2 + y3 + y4
        grad_up = np.einsum("std,sth->dh", seen_S4D, inner_S4H, optimize=True)
        grad_down = np.einsum("sth,std->hd", value_S4H, into_S4D, optimize=True)
        gradients = (torch.from_numpy(a) for a in (g, grad_up, grad_down))
        return (*gradients, None, None, None, None)
