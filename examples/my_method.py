"""Interpolate the slow half: fast rotary pairs keep their frequency, slow ones are divided by s.

Angle of pair j at position p: `p * theta_j` for `j < d / 4`, else `p * theta_j / s`. The shortest
complete method, for CONTRIBUTING.md; a cruder YaRN (https://arxiv.org/abs/2309.00071).
"""

from dataclasses import dataclass, replace

import ctxbench


@dataclass(frozen=True, kw_only=True)
class MyMethod(ctxbench.PositionMethod, name="my_method"):
    """Divide the slower half of the frequencies by `factor`.

    Attributes:
        factor: s; default `length / original length`.
    """

    factor: float | None = None

    def resolve(self, config):
        """Set the factor."""
        method = super().resolve(config)
        ctxbench.check_positive(self, factor=1)
        return replace(method, factor=self.factor or ctxbench.length_ratio(self, config, "factor"))

    def scaled(self, config, current_length):
        """Return the frequencies, the slower half divided."""
        theta = ctxbench.inverse_frequencies(
            ctxbench.rotary_dim(config), ctxbench.rotary_base(config)
        )
        theta[len(theta) // 2 :] /= self.factor
        return theta, 1.0
