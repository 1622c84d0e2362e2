"""What a token store is asked to hold: mixtures, budgets, and how short documents are thinned.

Fu et al. 2024 (https://arxiv.org/abs/2402.10171), per-source length upsampling: in every source the
documents shorter than 4096 tokens are kept with probability 0.1, and each source fills its share of
the tokens, so that lengths move and the mixture does not. Reference code:
FranxYao/Long-Context-Data-Engineering@a8385dbb data_engineering/slimpajama_packing.py; figures:
utils.py@0278752d.

What differs: budgets are counted in real tokens, not characters / 3.68; which documents are taken
depends on their text and the seed alone; sources are laid out evenly over the whole store, where
the original's end is what fills last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from ctxbench.core.errors import near_names
from ctxbench.core.settings import Range, Tokens, Whole

CHARACTERS_PER_TOKEN = 3.68
"""Fu et al.'s estimate, by which a document counts as short before it is tokenised."""

PRESETS: dict[str, dict[str, float]] = {
    # SlimPajama's own shares, in the code that Lu et al. 2024 say they follow
    "slimpajama-fu": {
        "commoncrawl": 0.53374772,
        "c4": 0.26609933,
        "github": 0.05004782,
        "arxiv": 0.04290379,
        "book": 0.0414836,
        "wikipedia": 0.03402128,
        "stackexchange": 0.03169647,
    },
    # as Lu et al. 2024 print it (appendix 9.3): LLaMA-1's sampling figures
    "llama1": {
        "commoncrawl": 0.67,
        "c4": 0.15,
        "github": 0.045,
        "wikipedia": 0.045,
        "book": 0.045,
        "arxiv": 0.025,
        "stackexchange": 0.02,
    },
}


@dataclass(frozen=True, kw_only=True)
class StoreRequest:
    """Everything that decides the content of a store, but for text and tokenizer.

    Attributes:
        tokens: to make, such as 1B
        mode: thin out short documents within a mix of sources, in all, or not at all
        mix: share of each source, normalised; only with per_source
        long: documents of fewer estimated tokens are short
        keep_short: share of the short ones that is kept
        seed: decides which documents are taken
    """

    tokens: Tokens
    mode: Literal["per_source", "global", "none"] = "per_source"
    mix: Mapping[str, float] | None = None
    long: Whole = 4096
    keep_short: Annotated[float, Range(above=0, most=1)] = 0.1
    seed: int = 42

    def __post_init__(self):
        if (self.mode == "per_source") != bool(self.mix):
            raise ValueError(
                f"mode={self.mode} with mix={self.mix}; per_source needs a mix, the other modes "
                f"take sources as they come. Give --mix PRESET ({', '.join(PRESETS)}) or "
                "NAME=SHARE,..., or leave it out."
            )
        if self.mode == "none" and (self.long, self.keep_short) != (4096, 0.1):
            raise ValueError(
                f"long={self.long} and keep_short={self.keep_short} would be ignored, because "
                "mode='none' keeps every document. Leave them out, or give --mode global."
            )

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self) | {"mix": dict(sorted(self.mix.items())) if self.mix else None}

    @property
    def thins(self) -> bool:
        """Whether short documents are dropped at all."""
        return self.mode != "none" and self.keep_short < 1

    def budgets(self) -> dict[str, int]:
        """Return tokens of each source, summing to `tokens`; of `""` where sources share one."""
        if not self.mix:
            return {"": self.tokens}
        total = sum(Fraction(share) for share in self.mix.values())
        exact = {name: Fraction(share) / total * self.tokens for name, share in self.mix.items()}
        whole = {name: int(value) for name, value in exact.items()}
        left = sorted(exact, key=lambda name: (whole[name] - exact[name], name))
        for name in left[: self.tokens - sum(whole.values())]:  # largest remainders
            whole[name] += 1
        return whole


def parse_mix(text: str) -> dict[str, float]:
    """Return shares from a preset's name or `NAME=SHARE,NAME=SHARE`.

    Raises:
        ValueError: it is neither.
    """
    if text in PRESETS:
        return PRESETS[text]
    try:
        shares = {name: float(share) for name, share in (p.split("=") for p in text.split(","))}
        if not all(0 < share < float("inf") for share in shares.values()):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"--mix {text!r} is no mixture{near_names(text, PRESETS)} Allowed: "
            f"{', '.join(PRESETS)}, or shares such as books=0.3,web=0.7. Give one of these."
        ) from None
    return {source_name(name): share for name, share in shares.items()}


def source_name(label: str) -> str:
    """Return the name of a source as mixtures have it: `RedPajamaC4` is `c4`."""
    name = label.removeprefix("RedPajama").lower()
    return re.sub(r"^books$", "book", name)
