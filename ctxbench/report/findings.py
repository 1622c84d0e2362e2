"""Which findings of the paper appear in a study, computed from its cells, together and by seed.

A finding (`paper_findings.py`) has the rows it is about, and criteria of the form "the score at
this length is at least this share of the score at that length". A criterion holds, fails or stays
undecided by the 95 % interval of the difference of the two sides, paired over the documents both
were measured on.
A verdict is of the seeds' average per document; those of the single seeds stand beside it, and
where two of them contradict each other the finding appears in part.
"""

import math
from collections.abc import Iterable, Sequence

from ctxbench.core.lengths import length_name
from ctxbench.core.protocol import Column, Row
from ctxbench.report.correlation import panels, scopes
from ctxbench.report.estimates import Contrast, difference, estimate
from ctxbench.report.group_order import same_order
from ctxbench.report.labels import kind_name
from ctxbench.report.numbers import Measure, Number, Numbers, show, show_interval
from ctxbench.report.paper_findings import (
    HARD,
    LOSS,
    NEEDLE,
    PAPER_FINDINGS,
    Criterion,
    PaperFinding,
    is_exact,
)
from ctxbench.report.study_results import StudyResults
from ctxbench.report.verdicts import Finding, Outcome, all_of, over_rows, with_seeds


def findings(numbers: Numbers) -> list[Finding]:
    """Return every finding judged, then the comparisons of groups."""
    study = numbers.study
    seeds = study.drawn_seeds if len(study.drawn_seeds) > 1 else ()
    single = {seed: _judged(Numbers(study.of_seed(seed))) for seed in seeds}
    together = [
        with_seeds(found, {seed: judged[place] for seed, judged in single.items()})
        for place, found in enumerate(_judged(numbers))
    ]
    return [*together, same_order(numbers, _at_reference(study, (LOSS, NEEDLE, HARD)))]


def _judged(numbers: Numbers) -> list[Finding]:
    """Return the findings that one seed can show."""
    return [
        *(_judge(finding, numbers) for finding in PAPER_FINDINGS),
        _approximate(numbers),
        _control(numbers),
        _correlation(numbers),
    ]


def _at_reference(study: StudyResults, kinds: Iterable[tuple[str, ...]]) -> list[Measure]:
    """Return the first family of each of some kinds at the reference length."""
    found = []
    for names in kinds:
        columns = [c for c in study.of_kind(*names) if c.length == study.reference_length]
        found += [_measure(column) for column in columns[:1]]
    return found


def _measure(column: Column) -> Measure:
    return Measure(length_name(column.length or 0), (column,))


# --------------------------------------------------------------- the paper's


def _judge(finding: PaperFinding, numbers: Numbers) -> Finding:
    parts, verdicts = [], []
    for row in filter(finding.rows, numbers.study.rows):
        judged = [_test(test, row, numbers) for test in finding.tests]
        tests = [part for part in judged if part]
        parts += tests
        verdicts += [all_of([part.holds for part in tests])] if tests else []
    return Finding(finding.name, finding.text, over_rows(verdicts), tuple(parts))


def _test(test: Criterion, row: Row, numbers: Numbers) -> Outcome | None:
    """Return what came of a criterion for a row; None if the study has no such columns."""
    study = numbers.study
    other = numbers.base if test.of == "base" else row
    columns = study.of_kind(*test.kinds)
    here, there = (_column(study, columns, row, at) for at in (test.at, test.of_at))
    if other is None or here is None or there is None:
        return None
    one, two = numbers.number(row, _measure(here)), numbers.number(other, _measure(there))
    against = "" if other is row else f"{other.label}'s "
    sentence = (
        f"{row.label}, {kind_name(here.kind)} at {length_name(here.length or 0)}: {_said(one)}; "
        f"{test.relation} {test.share:g} times {against}{_said(two)} at "
        f"{length_name(there.length or 0)}"
    )
    key = (row.name, test)
    found = numbers.contrast(row, one.measure, other, two.measure, test.share)
    if found is None:
        return Outcome(f"{sentence}, a cell is not there", None, key)
    over = test.relation == "at least"
    holds = found.low >= 0 if over else found.high <= 0
    fails = found.high < 0 if over else found.low > 0
    margin = _margin(found, test.share, one.measure.perplexity)
    return Outcome(f"{sentence}; {margin}", True if holds else (False if fails else None), key)


def _said(number: Number) -> str:
    if number.estimate is None:
        return number.state
    perplexity = number.measure.perplexity
    interval = show_interval(number.estimate, perplexity)
    return f"{show(number.estimate.value, perplexity)} [{interval}]"


def _margin(found: Contrast, share: float, perplexity: bool) -> str:
    """Say how far one side is from its share of the other."""
    if perplexity:
        value, low, high = (share * math.exp(x) for x in (found.value, found.low, found.high))
        said = f"{value:.2f} [{low:.2f}\u2013{high:.2f}] times"
    else:
        said = f"{_points(found)} from that"
    return f"{said}, {_paired(found, perplexity)}"


def _paired(found: Contrast, perplexity: bool = False) -> str:
    """Say what a comparison is paired over."""
    if not found.units:
        return "not paired: no document in common"
    return f"paired over {found.units} {'texts' if perplexity else 'documents'}"


def _points(found: Contrast) -> str:
    """Return a difference of scores in points."""
    text = f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return text.replace("-", "\u2212")


def _column(study: StudyResults, columns: Sequence[Column], row: Row, at: str) -> Column | None:
    """Return the column of the first family at a length, None where it was not measured."""
    first = [c for c in columns if c.length and c.family == columns[0].family]
    if not first:
        return None
    trained = row.trained_length or 0
    wanted = {
        "window": study.window,
        "twice": 2 * study.window,
        "reference": study.reference_length,
        "trained": trained,
        "beyond": 2 * trained,
        "longest": max(column.length or 0 for column in first),
    }[at]
    return next((column for column in first if column.length == wanted), None)


# ---------------------------------------------------------------------- groups


def _approximate(numbers: Numbers) -> Finding:
    """Each approximate method against the mean of the fine-tuned exact ones, paired."""
    study = numbers.study
    parts, verdicts = [], []
    measures = _at_reference(study, (NEEDLE, HARD))
    exact = [numbers.mean_leaves(list(filter(is_exact, study.rows)), m) for m in measures]
    for row in (row for row in study.rows if row.group == "approximate"):
        judged = []
        for measure, theirs in zip(measures, exact, strict=True):
            found = difference(numbers.leaves(row, measure), theirs, perplexity=False)
            if found is None:
                continue
            mean = estimate(theirs, perplexity=False)
            text = (
                f"{row.label}, {measure.description}: {_said(numbers.number(row, measure))}; "
                f"{_points(found)} from the mean of the fine-tuned exact methods, "
                f"{show(mean.value, False)} [{show_interval(mean, False)}], {_paired(found)}"
            )
            holds = True if found.high < 0 else (False if found.low > 0 else None)
            words = ("below", "above", "not told apart")
            judged.append(Outcome(text, holds, (row.name, measure), words))
        parts += judged
        verdicts += [all_of([part.holds for part in judged])] if judged else []
    text = "Approximate attention underperforms in retrieval"
    return Finding("approximate-below-exact", text, over_rows(verdicts), tuple(parts))


def _control(numbers: Numbers) -> Finding:
    """The same tokens without a method, against each fine-tuned exact method, paired."""
    study = numbers.study
    parts = []
    for control in (row for row in study.rows if row.group == "control" and row.trained):
        for row in filter(is_exact, study.rows):
            for measure in _at_reference(study, (NEEDLE, HARD)):
                found = numbers.difference(row, control, measure)
                if found is None or row.trained_length != control.trained_length:
                    continue
                holds = True if found.low > 0 else (False if found.high < 0 else None)
                text = (
                    f"{row.label} less {control.label}, {measure.description}: {_points(found)}, "
                    f"p {found.p:.2g}, {_paired(found)}"
                )
                parts.append(Outcome(text, holds, (row.name, control.name, measure)))
    text = "The method does it, not the tokens: the control without one retrieves less"
    verdict = over_rows([part.holds for part in parts])
    return Finding("control-below", text, verdict, tuple(parts))


def _correlation(numbers: Numbers) -> Finding:
    parts, verdicts = [], []
    for panel in panels(numbers, numbers.study.reference_length):
        for scope, rank, linear in scopes(panel.points):
            text = f"{panel.title}, {scope} ({rank.count} rows): rank {rank}, linear {linear}"
            holds = True if rank.high < 0 else (False if rank.low > 0 else None)
            parts.append(Outcome(text, holds, (panel.title, scope)))
            if scope in ("all rows", "within classes") and rank.low == rank.low:
                verdicts.append(holds)
    text = "Perplexity goes with downstream scores, across and within classes of methods"
    return Finding("perplexity-predicts", text, over_rows(verdicts), tuple(parts))
