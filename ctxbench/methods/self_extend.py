"""Self-Extend: true distances nearby, grouped positions beyond.

Token t sees j at distance `t - j` if that is below `window` (W), else at
`(t // G + W - W // G) - j // G` with `group` (G); one softmax over both. Paper: Jin et al. 2024,
https://arxiv.org/abs/2401.01325. Reference code: datamllab/LongLM self_extend_patch/Llama_4_40.py;
Lu et al. 2024 (https://arxiv.org/abs/2409.12181) use W = 1024 and G = 64 at every length.

What differs: where G does not divide W the official files disagree (Llama.py and the flash prefill
divide exactly, Llama_4_40.py, Phi.py and every flash decode round down). Here it is always rounded
down, so that prefill and decode agree, with a warning.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ctxbench.methods.attention import AttentionMethod, check_window, native_length
from ctxbench.methods.base import check_positive, default_length
from ctxbench.methods.kernels.plan import AttentionPlan, Branch, window
from ctxbench.methods.look import TOKENS
from ctxbench.methods.record import original_length

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class SelfExtend(AttentionMethod, name="self_extend"):
    """True distances nearby, grouped positions beyond.

    Attributes:
        group: G, tokens that share a position beyond the window; default the smallest that fits
            `length` into the model's own window. The paper's rows: 64.
        window: W, distances below it are true; default a quarter of the model's own window. The
            paper's rows: 1024.
    """

    group: int | None = None
    window: int | None = None

    exact = True

    def resolve(self, config: PreTrainedConfig) -> Self:
        """Set window and group."""
        check_positive(self, window=1, group=1)
        method = super().resolve(config)
        width = check_window(method, self.window or max(native_length(method, config) // 4, 1))
        length = method.length or default_length(config)
        group = self.group or smallest_group(length, width, original_length(config))
        if width % group:
            warnings.warn(
                f"method=self_extend: group={group} does not divide window={width}; positions are "
                f"rounded down. A window of {-(-width // group) * group} would be exact.",
                stacklevel=2,
            )
        return replace(method, group=group, window=width)

    def neutral(self, config: PreTrainedConfig) -> Self:
        """Return the method with a window wider than the text."""
        return replace(self, window=TOKENS, group=1, length=max(self.length or 0, TOKENS))

    def plan(self, config: PreTrainedConfig) -> AttentionPlan:
        """Return the window and the groups beyond it."""
        width, group = self.window, self.group
        assert width is not None
        assert group is not None
        near = Branch(first=window(width))
        far = Branch(
            query_position=lambda t: t // group + width - width // group,
            key_position=lambda j: j // group,
            end=lambda t: t - width + 1,
        )
        return AttentionPlan(branches=(near, far), steady=1)


def smallest_group(length: int, window: int, own: int) -> int:
    """Return the smallest power of two G with `(own - window) * G + window >= length`.

    Section 3 of the paper: the largest length is `(C - W) * G + W`. Powers of two divide the usual
    windows.

    Raises:
        ValueError: the window fills the model's own, so that no group fits.
    """
    if length <= own:
        return 1
    if window >= own:
        raise ValueError(
            f"method=self_extend: window={window} fills the model's own window of {own} tokens, so "
            f"no group fits length={length}. Give a window below {own}, or leave it out."
        )
    return 2 ** math.ceil(math.log2((length - window) / (own - window)))
