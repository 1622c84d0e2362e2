"""CLEX: rotary frequencies that follow a neural differential equation in the stretch of the window.

The log frequencies `z` start at the model's own, `z(1) = log theta`, and obey
`dz/dt = act((z + log theta_ntk(t)) U) D + d/dt log theta_ntk(t)`, where `theta_ntk(t)` are the NTK
frequencies of `alpha = 2 t - 1`. `D` starts at zero, so an untrained CLEX is that NTK. A request of
`L` tokens has the frequencies of `t = ceil(L / C)`. In training each micro-batch draws `t` from
1 .. max_factor and spreads its positions over `C t`. U and D train with the whole model.

Paper: Chen et al. 2023, https://arxiv.org/abs/2310.16450. Reference code:
DAMO-NLP-SG/CLEX@023709d CLEX/clex_layer.py. Lu et al. 2024 (https://arxiv.org/abs/2409.12181) use
max_factor 32 and SiLU; the code's defaults are 16 and tanh, and no training script for CLEX was
published with the study.

What differs: the hidden layer sees the model's rotary base, the official one always 10000
(`ignore_base` brings it back); float64 instead of float32 (2e-5 of a frequency, 0.15 rad at 64k);
a step of 0.04 instead of 0.01 (5e-8 off); frequencies kept for reuse are dropped when the weights
change; the last position that training draws is never behind the one before (official, where the
row is over twice the window); `sampling=matched` as an option; beyond `C max_factor` is an error,
not a table cut short; cached keys are rotated for the request's final length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from ctxbench.core.compat.torch import times_written
from ctxbench.methods.anatomy import extended_kind, rotary_of, text_part
from ctxbench.methods.base import check_positive
from ctxbench.methods.extension import ForwardInputs, extension_of
from ctxbench.methods.kernels.ode import solve, stage_times
from ctxbench.methods.record import original_length
from ctxbench.methods.rope_settings import head_dim
from ctxbench.methods.rotary import (
    PositionMethod,
    RequestRotary,
    inverse_frequencies,
    rotary_base,
    rotary_dim,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel
    from typing_extensions import Self

POSITIONS, STRETCH = "clex_positions", "clex_stretch"
"""Keys of a training batch: what `edit_batch` drew."""


@dataclass(frozen=True, kw_only=True)
class CLEX(PositionMethod, name="clex"):
    """Rotary frequencies from a neural differential equation in the window's stretch.

    Attributes:
        max_factor: largest t; `max_factor * original length` is the longest request.
        hidden: width of the hidden layer / rotary dimension (official `param_factor`).
        activation: of the hidden layer.
        step: of the solver, in t. The official one is 0.01.
        log_scale: multiply attention scores by `ln(L) / ln(C)`: never, outside training (as Lu et
            al. evaluate), or always. Not clamped: below 1 for requests within the window.
        sampling: of stretches and positions in training. The two agree when rows are as long as
            the original window; for longer ones `matched` draws what requests will be, pieces where
            a stretch is shorter than the row. On the bundled model, one seed, it gave 3 to 5 % less
            perplexity; needles at 2048 were .90 against .96, within the error of 50 prompts.
        window: C, tokens; default the model's original length.
        ignore_base: feed the hidden layer NTK frequencies of base 10000, as the official code does.
    """

    max_factor: int = 32
    hidden: int = 1
    activation: Literal["silu", "tanh"] = "silu"
    step: float = 0.04
    log_scale: Literal["never", "evaluation", "always"] = "never"
    sampling: Literal["official", "matched"] = "official"
    window: int | None = None
    ignore_base: bool = False

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Check the options and the length, and fill in the window."""
        check_positive(self, max_factor=1, hidden=1, step=1e-4, window=1)
        method = super().resolve(config)
        method = replace(method, window=self.window or original_length(config))
        if self.log_scale != "never" and rotary_dim(config) != head_dim(config):
            raise ValueError(
                f"method=clex: log_scale={self.log_scale} multiplies queries through their "
                f"rotation, and this model rotates {rotary_dim(config)} of {head_dim(config)} "
                "dimensions. It is for models that rotate all (the official code has it for Llama "
                "only). Leave out log_scale."
            )
        assert method.length is not None
        method.stretch(config, method.length)
        return method

    def neutral(self, config: PreTrainedConfig) -> Self:
        """Return the method with a text within the window, where it has the base's frequencies."""
        return replace(self, log_scale="never")

    @property
    def length_dependent(self) -> bool:
        """Always."""
        return True

    def stretch(self, config: PreTrainedConfig, current_length: int) -> int:
        """Return `t = ceil(L / C)`.

        Raises:
            ValueError: beyond `max_factor`.
        """
        original = original_length(config)
        t = max(math.ceil(current_length / original), 1)
        if t > self.max_factor:
            raise ValueError(
                f"method=clex reaches {self.max_factor} times the window of {original} tokens, "
                f"{self.max_factor * original}; {current_length} tokens were asked for. Give a "
                f"shorter length, or train with max_factor={t} or more."
            )
        return t

    def attention_scaling(
        self, config: PreTrainedConfig, current_length: int, training: bool = False
    ) -> float:
        """Return what multiplies cos and sin: the root of the factor on the scores."""
        if self.log_scale == "never" or (training and self.log_scale == "evaluation"):
            return 1.0
        return math.sqrt(math.log(max(current_length, 2)) / math.log(original_length(config)))

    def solve(
        self, config: PreTrainedConfig, t: int, up: torch.Tensor, down: torch.Tensor
    ) -> torch.Tensor:
        """Return the inverse frequencies at stretch t, `[d / 2]` float64, differentiable.

        Args:
            config: of the base model.
            t: the stretch.
            up: `[d / 2, hidden * d]`.
            down: `[hidden * d, d / 2]`.
        """
        dim, base = rotary_dim(config), rotary_base(config)
        theta = inverse_frequencies(dim, base)
        if t == 1:  # the start; still a function of the weights for DDP, which wants every gradient
            return theta + 0.0 * (up.sum() + down.sum()).cpu().double()
        index = np.arange(0, dim, 2)  # 2 j
        sizes, times = stage_times(1.0, float(t), self.step)
        alpha = 2 * times[..., None] - 1
        fed_base = 10000.0 if self.ignore_base else base
        log_ntk = -index / dim * (math.log(fed_base) + dim / (dim - 2) * np.log(alpha))
        drift = -index / (dim - 2) * 2 / alpha
        state = solve(theta.log(), up, down, sizes, log_ntk, drift, self.activation)
        return state.exp()

    def scaled(self, config: PreTrainedConfig, current_length: int) -> tuple[torch.Tensor, float]:
        """Return the frequencies of an untrained CLEX; a trained model's are its module's."""
        dim = rotary_dim(config)
        up = torch.zeros(dim // 2, self.hidden * dim)
        t = self.stretch(config, current_length)
        return self.solve(config, t, up, up.T), self.attention_scaling(config, current_length)

    def make_rotary(self, config: PreTrainedConfig) -> CLEXRotary:
        """Return the module that owns the trained tensors."""
        return CLEXRotary(self, config)

    def edit_model(self, model: PreTrainedModel) -> None:
        """Install the module, and what hands it the positions of a training batch."""
        super().edit_model(model)
        hook = text_part(model).register_forward_pre_hook(_take_drawn, with_kwargs=True)
        extension_of(model).hooks.append(hook)

    def state_tensors(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """Return the two matrices of the hidden layer."""
        rotary = rotary_of(model)
        return {"clex.up": rotary.up, "clex.down": rotary.down}

    def reuse_key(self, config: PreTrainedConfig, length: int) -> object | None:
        """Return the stretch, and the factor on the scores."""
        return self.stretch(config, length), self.attention_scaling(config, length)

    def edit_batch(
        self, batch: dict[str, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Draw a stretch and positions for the micro-batch of n tokens a row.

        t is uniform on 1 .. max_factor. `matched`: n of the positions 0 .. C t - 1 in order, the
        first and the last among them; where C t < n, pieces of C t tokens that do not see each
        other, as no request of that stretch is longer. `official`: 0, n - 2 of 1 .. n t - 2 in
        order, and n t - 1, all divided by `max(1, n // C)`.
        """
        window, (rows, length) = self.window, batch["input_ids"].shape
        assert window is not None
        t = int(torch.randint(1, self.max_factor + 1, (), generator=generator))
        edited = dict(batch)
        if self.sampling == "official":
            positions = _spread(length, length * t, generator) / max(length // window, 1)
        elif window * t >= length:
            positions = _spread(length, window * t, generator)
        else:
            positions = _within_pieces(window * t, batch.get("position_ids"), rows, length)
            edited["position_ids"] = positions.long()
        edited[POSITIONS] = positions.expand(rows, -1)
        edited[STRETCH] = torch.full((rows, 1), t)
        return edited


def _spread(count: int, end: int, generator: torch.Generator) -> torch.Tensor:
    """Return `[1, count]` float64: 0, different numbers below end - 1 in order, end - 1."""
    middle = torch.randperm(max(end - 2, 0), generator=generator)[: max(count - 2, 0)]
    ends = torch.tensor([0, end - 1])[: min(count, 2)]
    return torch.cat((ends[:1], middle.sort().values + 1, ends[1:])).double()[None]


def _within_pieces(
    piece: int, documents: torch.Tensor | None, rows: int, length: int
) -> torch.Tensor:
    """Return `[rows, length]` float64: distances from the last begin of a piece or document."""
    at = torch.arange(length).expand(rows, -1)
    begins = at % piece == 0
    if documents is not None:
        begins = begins | (documents == 0)
    return (at - torch.where(begins, at, 0).cummax(-1).values).double()


class CLEXRotary(RequestRotary):
    """Rotary embedding with the equation's weights, float32 whatever the model is cast to.

    Attributes:
        up: `[d / 2, hidden * d]`.
        down: `[hidden * d, d / 2]`, zero at the start.
    """

    method: CLEX

    def __init__(self, method: CLEX, config: PreTrainedConfig) -> None:
        super().__init__(method, config)
        dim = rotary_dim(config)
        self.up = nn.Parameter(torch.empty(dim // 2, method.hidden * dim))
        self.down = nn.Parameter(torch.zeros(method.hidden * dim, dim // 2))
        nn.init.kaiming_uniform_(
            self.up, a=math.sqrt(5), generator=torch.Generator().manual_seed(0)
        )
        self.drawn: tuple[torch.Tensor, int] | None = None
        """Positions `[batch, length]` float64 and stretch of the training batch under way."""
        self._kept: dict[int, torch.Tensor] = {}
        self._kept_for: tuple[int, ...] = ()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        move = lambda tensor: tensor.to(fn(torch.empty(0)).device)  # noqa: E731
        return super()._apply(move, recurse)

    def train(self, mode: bool = True) -> Self:
        """Forget what was kept: sharded weights are gathered anew without a trace of a change."""
        self._kept_for = ()
        return super().train(mode)

    def table(self, length: int) -> tuple[torch.Tensor, float]:
        """Return frequencies and attention scaling for a request of this length."""
        t = self.method.stretch(self.config, length)
        scale = self.method.attention_scaling(self.config, length, self.training)
        return self.at_stretch(t), scale

    def at_stretch(self, t: int) -> torch.Tensor:
        """Return frequencies `[d / 2]` float64; kept while the weights stay as they are."""
        if torch.is_grad_enabled() and (self.up.requires_grad or self.down.requires_grad):
            return self.method.solve(self.config, t, self.up, self.down)
        weights = (self.up, self.down)
        now = tuple(v for w in weights for v in (w.data_ptr(), times_written(w)))
        if now != self._kept_for:
            self._kept, self._kept_for = {}, now
        if t not in self._kept:
            self._kept[t] = self.method.solve(self.config, t, *weights).detach()
        return self._kept[t]

    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin `[batch, length, d]` in the dtype of `x`."""
        if self.drawn is None or layer_type != extended_kind(self.config):
            return super().forward(x, position_ids, layer_type)
        positions, t = self.drawn
        length = t * original_length(self.config)
        scale = self.method.attention_scaling(self.config, length, training=True)
        return self.rotation(x, positions, self.at_stretch(t)[None], scale)


def _take_drawn(
    base_model: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ForwardInputs:
    """Forward pre-hook: what `edit_batch` drew goes to the rotary module, not to the model."""
    positions, t = kwargs.pop(POSITIONS, None), kwargs.pop(STRETCH, None)
    rotary = rotary_of(base_model)
    rotary.drawn = None if positions is None else (positions, int(t[0]))
    return args, kwargs
