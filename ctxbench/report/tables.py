"""Fills a layout from a study: lines, heads, entries."""

from collections.abc import Sequence
from dataclasses import dataclass

from ctxbench.core.lengths import length_name, task_family
from ctxbench.core.protocol import CLASSES, Column, Row
from ctxbench.report.labels import UNTRAINED, kind_name
from ctxbench.report.layouts import Layout, Pick, scale_at
from ctxbench.report.longbench import summaries
from ctxbench.report.numbers import EffectiveLength, Measure, Number, Numbers, show, show_interval
from ctxbench.report.study_results import LEFT_OUT, StudyResults

LEFT_OUT_MARK = "\u2013"


@dataclass(frozen=True)
class Entry:
    """One cell of a table.

    Attributes:
        text: the number, or what stands in its place.
        interval: its 95 % interval; empty where there is none.
        sort: what sorting compares; None comes last.
        mark: `best`, `tied` or nothing.
        state: of its number (`done`, `failed`, `missing`, `incomplete`, `left out`), or `text`.
        number: what it was made from.
    """

    text: str
    interval: str = ""
    sort: float | str | None = None
    mark: str = ""
    state: str = "text"
    number: Number | None = None


@dataclass(frozen=True)
class Line:
    """One line: its name, its group (class of methods), its entries.

    `summary`: it is a mean over other lines.
    """

    label: str
    group: str
    entries: tuple[Entry, ...]
    summary: bool = False


@dataclass(frozen=True)
class Table:
    """A filled table.

    Attributes:
        name: of its files.
        title: what it shows, the length included.
        caption: how to read it.
        numbers: of the paper's tables it is made after.
        heads: (group, label) of every entry.
        lines: in the order of the study.
        notes: stand-ins, what is absent.
        length: of this variant, tokens.
    """

    name: str
    title: str
    caption: str
    numbers: tuple[int, ...]
    heads: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    length: int | None = None


def fill(layout: Layout, numbers: Numbers) -> list[Table]:
    """Return the tables of a layout, one per length if it has variants."""
    study = numbers.study
    lengths: list[int | None] = [None]
    if layout.variants:
        picked = [c for p in layout.picks if p.at == "length" for c in study.of_kind(*p.kinds)]
        lengths = [*sorted({c.length for c in picked if c.length})] or [None]
    return [_fill(layout, numbers, length) for length in lengths]


def _fill(layout: Layout, numbers: Numbers, length: int | None) -> Table:
    study = numbers.study
    rows = ordered([row for row in study.rows if layout.only(row)])
    measures, notes = [], []
    for pick in layout.picks:
        found, note = _measures(pick, study, length)
        measures += found
        notes += [note] if note else []
    if layout.average and len(measures) > 1:
        means, more = _means(measures)
        measures += means
        notes += more
    notes += _left_out(rows, measures) + _untrained(rows, measures, study)
    marked = [numbers.marked(rows, measure) for measure in measures]
    entries = {row.name: [entry(by_row[row.name]) for by_row in marked] for row in rows}
    heads = [(measure.group, measure.label) for measure in measures]
    if len({group for group, _ in heads}) < 2:
        heads = [("", label) for _, label in heads]
    _add_properties(layout, study, rows, heads, entries)
    _add_scales(layout, study, rows, heads, entries)
    if layout.effective and measures:
        notes += _add_effective(layout, numbers, rows, heads, entries)
    lines = tuple(Line(r.label, CLASSES[r.group], tuple(entries[r.name])) for r in rows)
    if layout.transposed and len(rows) <= len(measures):
        heads, lines = _transpose(heads, lines, [measure.summary for measure in measures])
    if not rows or not heads or not (measures or layout.properties or layout.scales):
        heads, lines = [], ()
        notes = notes or [layout.absent]
    kinds = " and ".join(dict.fromkeys(kind_name(measure.kind) for measure in measures))
    title = layout.title.format(kind=kinds or kind_name("".join(_first_kinds(layout))))
    return Table(
        layout.name + (f"-{length_name(length)}" if length else ""),
        title + (f" at {length_name(length)} tokens" if length else ""),
        layout.caption,
        layout.numbers,
        tuple(heads),
        lines,
        tuple(dict.fromkeys(notes)),
        length,
    )


def _first_kinds(layout: Layout) -> list[str]:
    return [pick.kinds[0] for pick in layout.picks][:1]


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Return rows by class as in the paper's Table 1, within a class as the study has them."""
    return sorted(rows, key=lambda row: list(CLASSES).index(row.group))


# -------------------------------------------------------------------- measures


def _measures(pick: Pick, study: StudyResults, length: int | None) -> tuple[list[Measure], str]:
    """Return the measures of a pick, and what a reader must know about them."""
    columns = study.of_kind(*pick.kinds)
    wanted = kind_name(pick.kinds[0])
    where = "in this study"
    if pick.at == "length" and columns and length:
        columns = tuple(column for column in columns if column.length == length)
        where = "at this length"
    if pick.at == "most" and columns:
        columns = tuple(c for c in columns if c.shots == max(c.shots or 0 for c in columns))
    if not columns:
        return [], f"{wanted} is not measured {where}."
    kinds = list(dict.fromkeys(column.kind for column in columns))
    names = " and ".join(kind_name(kind) for kind in kinds)
    note = ""
    if names != wanted:
        verb = "stands" if len(kinds) == 1 else "stand"
        note = f"{names} {verb} in for {wanted}, which this study does not have."
    if pick.spread == "together":
        columns = tuple(c for c in columns if c.family == columns[0].family)
        return [Measure(pick.label or names, columns)], note
    if pick.spread == "leaves":
        return _leaf_measures(study, columns), note
    if pick.spread == "positions":
        return _position_measures(study, columns), note
    if pick.spread == "columns":
        return [Measure(column.name, (column,)) for column in columns], note
    key = "length" if pick.spread == "lengths" else "shots"
    placed = sorted(
        (column for column in columns if getattr(column, key)),
        key=lambda column: (columns_families(columns).index(column.family), getattr(column, key)),
    )
    return [
        Measure(
            length_name(column.length or 0) if key == "length" else str(column.shots),
            (column,),
            family_name(column.family),
        )
        for column in placed
    ], note


def columns_families(columns: Sequence[Column]) -> list[str]:
    """Return the families of columns in their order."""
    return list(dict.fromkeys(column.family for column in columns))


def family_name(family: str) -> str:
    """Return a family of tasks as a head has it."""
    named = {"pg19_ppl": "PG19", "proof_pile_ppl": "Proof-pile"}
    return named.get(family, family.replace("_", " "))


def _leaf_measures(study: StudyResults, columns: Sequence[Column]) -> list[Measure]:
    """Return one measure per leaf task of some columns, as they first appear in the cells."""
    leaves: dict[str, Column] = {}
    for column in columns:
        leaves |= dict.fromkeys(sorted(study.leaf_tasks[column.name], key=_place), column)
    several = sum(column.kind == "longbench" for column in columns) > 1
    words = [_leaf_label(leaf).split("_") for leaf in leaves]
    shared = 0
    while words and all(len(w) > shared + 1 and w[shared] == words[0][shared] for w in words):
        shared += 1
    return [
        Measure("_".join(parts[shared:]), (column,), column.name if several else "", (leaf,))
        for parts, (leaf, column) in zip(words, leaves.items(), strict=True)
    ]


def _leaf_label(leaf: str) -> str:
    return leaf if leaf.endswith("shot") else task_family(leaf)


_ORDER = (
    *("niah_single", "niah_multikey", "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe"),
    *("qa_1", "qa_2", "narrativeqa", "qasper", "multifieldqa", "hotpotqa", "2wikimqa", "musique"),
    *("gov_report", "qmsum", "multi_news", "trec", "triviaqa", "samsum", "passage_count"),
    *("passage_retrieval", "lcc", "repobench"),
)
"""Subtasks as the paper's tables have them."""


def _place(leaf: str) -> tuple:
    known = [number for number, part in enumerate(_ORDER) if part in leaf]
    return (known[0] if known else len(_ORDER), leaf)


def _position_measures(study: StudyResults, columns: Sequence[Column]) -> list[Measure]:
    """Return one measure per stretch of positions: the window, the common length, doublings."""
    column = max(columns, key=lambda c: c.length or 0)
    last = column.length or 0
    ends = [n for n in dict.fromkeys((study.window, study.reference_length)) if n < last]
    while ends and 2 * ends[-1] < last:
        ends.append(2 * ends[-1])
    ends.append(last)
    spans = zip([0, *ends], ends, strict=False)
    return [
        Measure(f"{length_name(a) if a else 1} to {length_name(b)}", (column,), span=(a, b))
        for a, b in spans
    ]


def _means(measures: Sequence[Measure]) -> tuple[list[Measure], list[str]]:
    """Return the means over measures of leaf tasks: LongBench's own, else the plain one."""
    columns = tuple(dict.fromkeys(c for m in measures for c in m.columns))
    if columns[0].kind != "longbench":
        return [Measure("Mean", columns, summary=True)], []
    made, notes = [], []
    for column in columns:
        leaves = [leaf for m in measures if m.columns == (column,) for leaf in m.leaves]
        group = "Means" if len(columns) == 1 else f"Means, {column.name}"
        found, note = summaries(column, leaves, group)
        made += found
        notes += [note] * bool(note)
    return made, notes


def _left_out(rows: Sequence[Row], measures: Sequence[Measure]) -> list[str]:
    """Say which rows are not measured in these columns, and why their entries are empty."""
    kinds = {column.kind for measure in measures for column in measure.columns}
    by_kinds: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row.kinds is not None and not kinds <= set(row.kinds):
            by_kinds.setdefault(row.kinds, []).append(row.label)
    return [
        f"{LEFT_OUT_MARK}: {', '.join(labels)}: measured in "
        f"{' and '.join(map(kind_name, only))} only."
        for only, labels in by_kinds.items()
    ]


def _untrained(rows: Sequence[Row], measures: Sequence[Measure], study: StudyResults) -> list[str]:
    """Say which rows that are measured here should have been trained and were not."""
    kinds = {column.kind for measure in measures for column in measure.columns}
    labels = [
        row.label
        for row in rows
        if row.name in study.untrained and (row.kinds is None or kinds & set(row.kinds))
    ]
    return [f"{', '.join(labels)}: {UNTRAINED}"] if labels and measures else []


# --------------------------------------------------------------------- entries


def entry(number: Number) -> Entry:
    """Return a number as a cell of a table."""
    if number.estimate is None:
        text = LEFT_OUT_MARK if number.state == LEFT_OUT else number.state
        return Entry(text, state=number.state, number=number)
    perplexity = number.measure.perplexity
    return Entry(
        show(number.estimate.value, perplexity),
        show_interval(number.estimate, perplexity),
        number.estimate.value,
        number.mark,
        "done",
        number,
    )


def _add_properties(layout: Layout, study: StudyResults, rows, heads, entries) -> None:
    properties = [(given, [given.read(study, row) for row in rows]) for given in layout.properties]
    heads[:0] = [("", given.label) for given, _ in properties]
    for number, row in enumerate(rows):
        texts = [Entry(values[number], sort=_sortable(values[number])) for _, values in properties]
        entries[row.name][:0] = texts


def _sortable(text: str) -> float | str | None:
    plain = text.replace(",", "")
    return float(plain) if plain.replace(".", "", 1).isdigit() else (text or None)


def _add_scales(layout: Layout, study: StudyResults, rows, heads, entries) -> None:
    if not layout.scales:
        return
    lengths = sorted({c.length for c in study.of_kind("perplexity", "needle") if c.length})
    heads += [("", length_name(length)) for length in lengths]
    for row in rows:
        for length in lengths:
            scale = scale_at(study, row, length)
            text = "" if scale is None else f"{scale:g}"
            entries[row.name].append(Entry(text, sort=scale))


def _add_effective(layout: Layout, numbers: Numbers, rows, heads, entries) -> list[str]:
    kinds = layout.picks[0].kinds if len(layout.picks) == 1 else ("needle",)
    columns = numbers.study.of_kind(*kinds)
    found = {row.name: numbers.effective_length(row, columns) for row in rows}
    known = next((length for length in found.values() if length), None)
    if known is None:
        return []
    heads.append(("", "Effective"))
    for row in rows:
        entries[row.name].append(_effective(found[row.name]))
    return [
        "Effective: the longest length from the window on up to which "
        f"{kind_name(columns[0].kind)} stays at or above {100 * known.threshold:.1f}, 85 % of the "
        "base model at its window; in brackets the same for the lower ends of the paired intervals "
        "against it; > if that is the longest length measured."
    ]


def _effective(length: EffectiveLength | None) -> Entry:
    if length is None:
        return Entry("", sort=None)
    low = length_name(length.low) if length.low else "none"
    value = length_name(length.value) if length.value else "none"
    return Entry(f"{'>' * length.reached}{value} [{low}]", sort=float(length.value or 0))


def _transpose(heads, lines, summaries) -> tuple[list[tuple[str, str]], tuple[Line, ...]]:
    turned = tuple(
        Line(label, group, tuple(line.entries[number] for line in lines), summaries[number])
        for number, (group, label) in enumerate(heads)
    )
    return [(line.group, line.label) for line in lines], turned
