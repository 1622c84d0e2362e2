"""The tables of the paper, declared: title, rows, columns, how cells average.

Lu et al. 2024, https://arxiv.org/abs/2409.12181. A layout says what to show; `tables.py` fills any
of them from any study. Where a study lacks a benchmark, `kinds` names what may stand in, and the
table says so. Tables that are one thing on two models (2 and 5, 3 and 6) or at five lengths (12 to
16) are one layout.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ctxbench.core.protocol import Column, Row
from ctxbench.report.labels import kind_name
from ctxbench.report.study_results import StudyResults


@dataclass(frozen=True)
class Pick:
    """Which columns of a study make up one or more measures of a table.

    Attributes:
        kinds: the first that the study has is taken; `a+b` is both.
        spread: `lengths`, `shots` or `columns`: one measure a column; `leaves`: one a leaf task;
            `positions`: one a stretch of positions; `together`: one measure, the mean over
            everything picked.
        at: `all` lengths, the table's own `length` (its variant), or the `most` shots.
        label: in the head, where it is not the length, the shots or the leaf.
    """

    kinds: tuple[str, ...]
    spread: str = "together"
    at: str = "all"
    label: str = ""


@dataclass(frozen=True)
class RowProperty:
    """A measure that is not measured: a property of the row.

    Attributes:
        label: in the head.
        read: (study, row) -> text.
    """

    label: str
    read: Callable[[StudyResults, Row], str]


@dataclass(frozen=True)
class Layout:
    """One table of the report.

    Attributes:
        name: of its files.
        short: in a menu; `{kind}`: what is shown, also where it stands in for another.
        numbers: of the paper's tables it is made after.
        title: what it shows.
        caption: how to read it, how cells average.
        picks: its measures.
        properties: properties of the rows, before the measures.
        only: which rows; all without it.
        transposed: methods across, measures downwards, as the paper has its subtask tables; where
            there are more methods than measures they stay downwards.
        average: last measures, the means of the others.
        variants: one table per length the study has (else one table).
        effective: a last column: the effective length.
        scales: one column per length with the scale factor in place of measures.
        absent: what to say where no row of a study has it.
    """

    name: str
    short: str
    numbers: tuple[int, ...]
    title: str
    caption: str
    picks: tuple[Pick, ...] = ()
    properties: tuple[RowProperty, ...] = ()
    only: Callable[[Row], bool] = field(default=lambda row: True)
    transposed: bool = False
    average: bool = False
    variants: bool = False
    effective: bool = False
    scales: bool = False
    absent: str = "No row of this study has it."


def _length(study: StudyResults, row: Row) -> str:
    return f"{row.trained_length or study.window:,}"


def _trained_with(key: str) -> Callable[[StudyResults, Row], str]:
    def read(study: StudyResults, row: Row) -> str:
        value = study.training(row).get(key, "")
        return f"{value:,}" if isinstance(value, int) else str(value)

    return read


def _scale(study: StudyResults, row: Row) -> str:
    scale = scale_at(study, row, row.trained_length or study.window)
    return "" if scale is None else f"{scale:g}"


def _options(study: StudyResults, row: Row) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(row.options.items()))


def _schedule(study: StudyResults, row: Row) -> str:
    if row.own_budget:
        return f"its own: {row.own_budget}"
    return "common" if row.trained else "none"


SCALES: dict[str, Callable[[dict[str, Any], int, int], float]] = {
    "none": lambda options, window, length: 1.0,
    "pi": lambda options, window, length: options["factor"],
    "yarn": lambda options, window, length: options["factor"],
    "longlora": lambda options, window, length: options["factor"],
    "ntk": lambda options, window, length: options["alpha"],
    "dynamic_ntk": lambda options, window, length: (
        options["factor"] * max(length, options.get("floor") or 0, window) / window
        - (options["factor"] - 1)
    ),
}
"""The scale factor of Tables 7 and 8 (options, window, length): a division of positions for `pi`,
`yarn` and `longlora`, the alpha of the rotary base for the NTK methods."""


def scale_at(study: StudyResults, row: Row, length: int) -> float | None:
    """Return a row's scale factor at a length; None if it has none or its options are open."""
    options = row.options
    try:
        return float(SCALES[row.method or ""](options, study.window, length))
    except (KeyError, TypeError):
        return None


LAYOUTS = (
    Layout(
        "overview",
        "Overview",
        (1,),
        "Overview",
        "Every method at one length: perplexity there, the needle over all lengths and depths, the "
        "most shots, LongBench over its tasks, RULER over its subtasks there.",
        picks=(
            Pick(("perplexity",), at="length", label="Perplexity"),
            Pick(("needle",), label="Needle"),
            Pick(("manyshot",), at="most", label="Many-shot"),
            Pick(("longbench",), label="LongBench"),
            Pick(("ruler", "multiquery"), at="length", label=""),
        ),
        variants=True,
        effective=True,
    ),
    Layout(
        "perplexity",
        "Perplexity",
        (2, 5),
        "Perplexity by length",
        "Lower is better. exp of the mean loss over all scored tokens.",
        picks=(Pick(("perplexity",), "lengths"),),
        properties=(RowProperty("Len", _length),),
    ),
    Layout(
        "ruler",
        "{kind}",
        (3, 6),
        "{kind} by length",
        "Mean over its subtasks, each weighing the same.",
        picks=(Pick(("ruler", "multiquery"), "lengths"),),
        properties=(RowProperty("Len", _length),),
        effective=True,
    ),
    Layout(
        "needle",
        "Needle",
        (),
        "Needle by length",
        "Mean over depths, each weighing the same (the maps of Figure 1, as numbers).",
        picks=(Pick(("needle",), "lengths"),),
        properties=(RowProperty("Len", _length),),
        effective=True,
    ),
    Layout(
        "subtasks",
        "Subtasks",
        (12, 13, 14, 15, 16),
        "{kind} by subtask",
        "Methods against subtasks, one table a length; last the mean.",
        picks=(Pick(("ruler", "needle+multiquery"), "leaves", at="length"),),
        transposed=True,
        average=True,
        variants=True,
    ),
    Layout(
        "longbench",
        "{kind} tasks",
        (4, 11),
        "{kind} by task",
        "Methods against tasks. Of LongBench the mean is the plain one over data sets, "
        "as in the paper's tables; the macro mean is the mean of the six category means.",
        picks=(Pick(("longbench", "manyshot"), "leaves"),),
        transposed=True,
        average=True,
    ),
    Layout(
        "manyshot",
        "Many-shot",
        (),
        "Many-shot learning by number of shots",
        "Accuracy (the curves of Figure 2, as numbers).",
        picks=(Pick(("manyshot",), "shots"),),
        properties=(RowProperty("Len", _length),),
    ),
    Layout(
        "positions",
        "Positions",
        (),
        "Perplexity by position",
        "exp of the mean loss over stretches of positions in the longest texts (the curves of "
        "Figure 3, as numbers). Lower is better.",
        picks=(Pick(("nll",), "positions"),),
        properties=(RowProperty("Len", _length),),
    ),
    Layout(
        "training",
        "Training",
        (7,),
        "Training",
        "The common budget is the same for every method; a row with its own schedule says so.",
        properties=(
            RowProperty("Method", lambda study, row: row.method or ""),
            RowProperty("Options", _options),
            RowProperty("Len", _length),
            RowProperty("Tokens", _trained_with("tokens")),
            RowProperty("\u03b1", _scale),
            RowProperty("Batch", _trained_with("batch_size")),
            RowProperty("lr", _trained_with("lr")),
            RowProperty("Schedule", _schedule),
        ),
        only=lambda row: row.trained,
    ),
    Layout(
        "scales",
        "Scales",
        (8,),
        "Scale factors at inference",
        "By evaluated length: what positions are divided by (PI, YaRN, LongLoRA), or alpha (NTK).",
        only=lambda row: row.method in SCALES,
        scales=True,
    ),
    Layout(
        "scale-grid",
        "Scale grid",
        (9,),
        "Scale factor against perplexity",
        "One checkpoint under fixed values of alpha. Lower is better.",
        picks=(Pick(("perplexity",), "lengths"),),
        properties=(RowProperty("alpha", lambda study, row: f"{row.options['alpha']:g}"),),
        only=lambda row: row.method == "ntk" and "alpha" in row.options,
        absent="No row of this study fixes alpha; `ctxbench study scale-grid` does.",
    ),
    Layout(
        "longlora",
        "LongLoRA",
        (10,),
        "LongLoRA, checked",
        "Our LongLoRA beside the published and the reproduced numbers of the paper.",
        picks=(Pick(("perplexity",), "lengths"),),
        properties=(RowProperty("Len", _length),),
        only=lambda row: row.method == "longlora",
        absent="This study has no LongLoRA.",
    ),
)


def own_layouts(study: StudyResults) -> tuple[Layout, ...]:
    """Return a layout for each kind of column of a study's own, which no other table has."""
    known = {
        kind for layout in LAYOUTS for p in layout.picks for k in p.kinds for kind in k.split("+")
    }
    own = dict.fromkeys(column.kind for column in study.columns if column.kind not in known)
    return tuple(_own(f"own-{n}", kind, study.of_kind(kind)) for n, kind in enumerate(own, 1))


def _own(name: str, kind: str, columns: Sequence[Column]) -> Layout:
    """Return the layout of one kind: by length or shots where all its columns have one."""
    spread, by = "columns", ""
    if all(column.shots for column in columns):
        spread, by = "shots", " by number of shots"
    elif all(column.length for column in columns):
        spread, by = "lengths", " by length"
    metrics = ", ".join(dict.fromkeys(column.metric for column in columns))
    return Layout(
        name,
        kind_name(kind),
        (),
        kind_name(kind).replace("{", "{{").replace("}", "}}") + by,
        f"A benchmark of this study's own; its metric: {metrics}.",
        picks=(Pick((kind,), spread),),
        properties=(RowProperty("Len", _length),),
    )
