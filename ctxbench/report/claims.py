"""The findings of Lu et al. 2024 as data: rows, tests, shares.

The shares are choices, made once, printed with every statement and the same for every study.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ctxbench.core.protocol import Row


@dataclass(frozen=True)
class Test:
    """One side of a claim.

    Attributes:
        kinds: of column; the first the study has.
        at: a length: `window`, `twice` the window, `reference` (of the common budget), `trained`
            (the row's own), `beyond` (twice that), `longest` measured.
        relation: `at least` or `at most`.
        share: of what it is compared with.
        of: `own` score of the row, or that of the `base` model.
        of_at: at which length.
    """

    kinds: tuple[str, ...]
    at: str
    relation: str
    share: float
    of: str = "own"
    of_at: str = "window"


@dataclass(frozen=True)
class Claim:
    """A finding of the paper: what it says, about which rows, how it is tested."""

    name: str
    text: str
    rows: Callable[[Row], bool]
    tests: tuple[Test, ...]


NEEDLE, HARD, LOSS = ("needle",), ("ruler", "multiquery"), ("perplexity",)


def is_exact(row: Row) -> bool:
    """Return whether a row is a fine-tuned exact method under the common budget."""
    return row.group == "exact" and row.trained and not row.own_budget


CLAIMS = (
    Claim(
        "base-collapses",
        "The base model collapses past its window",
        lambda row: row.group == "frozen" and row.method == "none",
        (
            Test(LOSS, "reference", "at least", 2.0),
            Test(NEEDLE, "reference", "at most", 0.25),
            Test(HARD, "reference", "at most", 0.25),
        ),
    ),
    Claim(
        "frozen-ntk-fades",
        "NTK-Frozen holds to twice the window and fades beyond",
        lambda row: row.group == "frozen" and row.method == "dynamic_ntk",
        (
            Test(NEEDLE, "twice", "at least", 0.75),
            Test(NEEDLE, "longest", "at most", 0.75),
            Test(HARD, "longest", "at most", 0.5),
            Test(LOSS, "longest", "at least", 1.1),
        ),
    ),
    Claim(
        "trained-methods-hold",
        "Fine-tuned exact methods hold to the length they were trained to",
        is_exact,
        (
            Test(LOSS, "trained", "at most", 1.1, "base"),
            Test(NEEDLE, "trained", "at least", 0.8, "base"),
            Test(HARD, "trained", "at least", 0.5, "base"),
        ),
    ),
    Claim(
        "ntk-goes-beyond",
        "Trained NTK goes beyond the length it was trained to",
        lambda row: is_exact(row) and row.method in ("dynamic_ntk", "ntk"),
        (
            Test(LOSS, "beyond", "at most", 1.25, of_at="trained"),
            Test(NEEDLE, "beyond", "at least", 0.75, of_at="trained"),
            Test(HARD, "beyond", "at least", 0.5, of_at="trained"),
        ),
    ),
    Claim(
        "pi-and-yarn-do-not",
        "PI and YaRN break beyond the length they were trained to",
        lambda row: is_exact(row) and row.method in ("pi", "yarn"),
        (
            Test(LOSS, "beyond", "at least", 1.5, of_at="trained"),
            Test(NEEDLE, "beyond", "at most", 0.5, of_at="trained"),
            Test(HARD, "beyond", "at most", 0.5, of_at="trained"),
        ),
    ),
    Claim(
        "lm-infinite-reads-its-window",
        "LM-Infinite keeps its perplexity and loses retrieval",
        lambda row: row.group == "approximate" and row.method == "lm_infinite",
        (
            Test(LOSS, "longest", "at most", 1.25),
            Test(NEEDLE, "reference", "at most", 0.5),
            Test(HARD, "reference", "at most", 0.5),
        ),
    ),
)
