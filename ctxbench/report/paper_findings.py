"""The findings of Lu et al. 2024 as data: rows, tests, shares.

The shares are choices, made once, printed with every statement and the same for every study.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ctxbench.core.protocol import Row


@dataclass(frozen=True)
class Criterion:
    """One inequality of a finding: a score against a share of another.

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
class PaperFinding:
    """A finding of the paper: what it says, about which rows, how it is tested."""

    name: str
    text: str
    rows: Callable[[Row], bool]
    tests: tuple[Criterion, ...]


NEEDLE, HARD, LOSS = ("needle",), ("ruler", "multiquery"), ("perplexity",)


def is_exact(row: Row) -> bool:
    """Return whether a row is a fine-tuned exact method under the common budget."""
    return row.group == "exact" and row.trained and not row.own_budget


PAPER_FINDINGS = (
    PaperFinding(
        "base-collapses",
        "The base model collapses past its window",
        lambda row: row.group == "frozen" and row.method == "none",
        (
            Criterion(LOSS, "reference", "at least", 2.0),
            Criterion(NEEDLE, "reference", "at most", 0.25),
            Criterion(HARD, "reference", "at most", 0.25),
        ),
    ),
    PaperFinding(
        "frozen-ntk-fades",
        "NTK-Frozen holds to twice the window and fades beyond",
        lambda row: row.group == "frozen" and row.method == "dynamic_ntk",
        (
            Criterion(NEEDLE, "twice", "at least", 0.75),
            Criterion(NEEDLE, "longest", "at most", 0.75),
            Criterion(HARD, "longest", "at most", 0.5),
            Criterion(LOSS, "longest", "at least", 1.1),
        ),
    ),
    PaperFinding(
        "trained-methods-hold",
        "Fine-tuned exact methods hold to the length they were trained to",
        is_exact,
        (
            Criterion(LOSS, "trained", "at most", 1.1, "base"),
            Criterion(NEEDLE, "trained", "at least", 0.8, "base"),
            Criterion(HARD, "trained", "at least", 0.5, "base"),
        ),
    ),
    PaperFinding(
        "ntk-goes-beyond",
        "Trained NTK goes beyond the length it was trained to",
        lambda row: is_exact(row) and row.method in ("dynamic_ntk", "ntk"),
        (
            Criterion(LOSS, "beyond", "at most", 1.25, of_at="trained"),
            Criterion(NEEDLE, "beyond", "at least", 0.75, of_at="trained"),
            Criterion(HARD, "beyond", "at least", 0.5, of_at="trained"),
        ),
    ),
    PaperFinding(
        "pi-and-yarn-do-not",
        "PI and YaRN break beyond the length they were trained to",
        lambda row: is_exact(row) and row.method in ("pi", "yarn"),
        (
            Criterion(LOSS, "beyond", "at least", 1.5, of_at="trained"),
            Criterion(NEEDLE, "beyond", "at most", 0.5, of_at="trained"),
            Criterion(HARD, "beyond", "at most", 0.5, of_at="trained"),
        ),
    ),
    PaperFinding(
        "lm-infinite-reads-its-window",
        "LM-Infinite keeps its perplexity and loses retrieval",
        lambda row: row.group == "approximate" and row.method == "lm_infinite",
        (
            Criterion(LOSS, "longest", "at most", 1.25),
            Criterion(NEEDLE, "reference", "at most", 0.5),
            Criterion(HARD, "reference", "at most", 0.5),
        ),
    ),
)
