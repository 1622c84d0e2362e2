"""What is said of a finding: a verdict over its outcomes, and over the seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

APPEARS, PARTLY, NOT, OPEN, ABSENT = (
    "appears",
    "appears in part",
    "does not appear",
    "undecided",
    "not measured",
)
HOLDS, FAILS = "holds", "does not hold"


@dataclass(frozen=True)
class Outcome:
    """What came of one criterion of a finding.

    Attributes:
        text: what was compared, with numbers.
        holds: None: undecided.
        words: for yes, no and undecided.
        key: the same for the same test on another seed.
    """

    text: str
    holds: bool | None
    key: tuple
    words: tuple[str, str, str] = ("yes", "no", "undecided")

    @property
    def word(self) -> str:
        """What came out."""
        return self.words[2 if self.holds is None else (0 if self.holds else 1)]


@dataclass(frozen=True)
class Finding:
    """A finding of the paper, judged.

    Attributes:
        name: in links.
        text: of the finding.
        verdict: over everything.
        outcomes: of the criteria it rests on.
        seeds: verdict of every single seed, where there are several.
        evidence: the outcomes as sentences, each with what the single seeds say.
    """

    name: str
    text: str
    verdict: str
    outcomes: tuple[Outcome, ...] = ()
    seeds: tuple[tuple[int, str], ...] = ()
    evidence: tuple[str, ...] = ()

    @property
    def by_seed(self) -> str:
        """The seeds' verdicts in words; empty where there is one seed."""
        return ", ".join(f"seed {seed}: {verdict}" for seed, verdict in self.seeds)


def all_of(outcomes: Sequence[bool | None]) -> bool | None:
    """Return whether all hold: False if one fails, None if one is undecided."""
    if False in outcomes:
        return False
    return None if None in outcomes else True


def over_rows(verdicts: Sequence[bool | None]) -> str:
    """Return the verdict over rows: all must agree, else it is in part or undecided."""
    if not verdicts:
        return ABSENT
    if True in verdicts and False in verdicts:
        return PARTLY
    if None in verdicts:
        return PARTLY if True in verdicts else OPEN
    return APPEARS if verdicts[0] else NOT


def with_seeds(found: Finding, single: Mapping[int, Finding]) -> Finding:
    """Return a finding with the verdicts of the single seeds beside its own."""
    known = {seed: {o.key: o.word for o in alone.outcomes} for seed, alone in single.items()}
    evidence = []
    for outcome in found.outcomes:
        said = [f"seed {seed}: {words.get(outcome.key, ABSENT)}" for seed, words in known.items()]
        beside = f" ({', '.join(said)})" if said else ""
        evidence.append(f"{outcome.text}: {outcome.word}{beside}")
    seeds = tuple((seed, alone.verdict) for seed, alone in single.items())
    verdict = PARTLY if {APPEARS, NOT} <= {word for _, word in seeds} else found.verdict
    return replace(found, verdict=verdict, seeds=seeds, evidence=tuple(evidence))
