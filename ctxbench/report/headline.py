"""What a study shows in a sentence a benchmark: the base model's collapse, and what cures it.

Decided where 95 % intervals lie apart: the base at the reference length from itself at its window,
and a row at the reference length from the base there.
"""

from collections.abc import Sequence

from ctxbench.core.lengths import length_name
from ctxbench.core.protocol import Column, Row
from ctxbench.report.estimates import Estimate
from ctxbench.report.labels import kind_name
from ctxbench.report.numbers import Measure, Numbers, show, show_interval

_KINDS = (("needle",), ("ruler", "multiquery"), ("perplexity",))


def headlines(numbers: Numbers) -> tuple[str, ...]:
    """Return the sentences; none where a study has no base model or no length beyond its window."""
    study = numbers.study
    if numbers.base is None or study.reference_length <= study.window:
        return ()
    columns = (study.of_kind(*kinds) for kinds in _KINDS)
    return tuple(filter(None, (_headline(numbers, numbers.base, c) for c in columns if c)))


def _headline(numbers: Numbers, base: Row, columns: Sequence[Column]) -> str:
    """Return the sentence of one kind of columns; empty where the base was not measured."""
    study = numbers.study
    at = {c.length: Measure("", (c,)) for c in columns if c.family == columns[0].family}
    window, reference = at.get(study.window), at.get(study.reference_length)
    if window is None or reference is None:
        return ""
    inside, beyond = (numbers.number(base, measure).estimate for measure in (window, reference))
    if inside is None or beyond is None:
        return ""
    less = reference.perplexity
    there, here = length_name(study.window), length_name(study.reference_length)
    fate = "it collapses" if _better(inside, beyond, less) else "undecided whether it collapses"
    return (
        f"{kind_name(reference.kind)}: {base.label} {_said(inside, less)} at its window of "
        f"{there}, {_said(beyond, less)} at {here}: {fate}. {_cure(numbers, base, reference)}"
    )


def _cure(numbers: Numbers, base: Row, measure: Measure) -> str:
    """Say which methods are better than the base where it has collapsed."""
    less = measure.perplexity
    beyond = numbers.number(base, measure).estimate
    found = [
        (number.estimate.value, row.label, number.estimate)
        for row in numbers.study.rows
        if row.group != "control" and row.name != base.name
        if (number := numbers.number(row, measure)).estimate is not None
    ]
    apart = [one for one in found if beyond is not None and _better(one[2], beyond, less)]
    if not apart:
        return "No method is told apart from it there: the intervals overlap, or none was measured."
    _, label, estimate = (min if less else max)(apart, key=lambda one: one[0])
    return (
        f"Cured, the intervals apart, by {len(apart)} of {len(found)} methods, {label} first: "
        f"{_said(estimate, less)}."
    )


def _better(one: Estimate, other: Estimate, less: bool) -> bool:
    """Return whether an interval lies wholly on the better side of another."""
    return one.high < other.low if less else one.low > other.high


def _said(found: Estimate, perplexity: bool) -> str:
    return f"{show(found.value, perplexity)} [{show_interval(found, perplexity)}]"
