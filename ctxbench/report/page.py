"""The report as one HTML page that asks nothing of anybody: no request, no font, no library.

Tables are written out; `page.js` sorts them, switches lengths, and shows what a cell was made from
on hover and on keyboard focus. `page.css` has the light and the dark look.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from itertools import groupby

from ctxbench.core.intervals import wilson
from ctxbench.core.lengths import length_name
from ctxbench.report.contents import Contents, Map, Section
from ctxbench.report.figures import Plot
from ctxbench.report.formats import grouped, problems
from ctxbench.report.numbers import Number, problem, show
from ctxbench.report.paper import beside
from ctxbench.report.study_results import LEFT_OUT, Cell
from ctxbench.report.tables import Entry, Line, Table
from ctxbench.report.text import ABOUT, facts
from ctxbench.report.verdicts import APPEARS, FAILS, HOLDS, NOT, PARTLY, Finding

_MOST_COMMANDS = 6  # shown in a tooltip; the others are in cells.csv
_STATES = {"failed": "failed", "missing": "missing", "incomplete": "missing", LEFT_OUT: "missing"}
_HIGH = 76  # percent, from which the other ink has the better contrast on a map's cell
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


@dataclass
class Page:
    """A page while it is written.

    Attributes:
        contents: what it shows.
        cells: what the tooltip of a cell says, by the cell's number.
    """

    contents: Contents
    cells: list[dict] = field(default_factory=list)

    def note(self, title: str, score: str, lines: Sequence[str], cells: Sequence[Cell]) -> int:
        """Keep what a tooltip says; return its number."""
        commands = list(dict.fromkeys(cell.command for cell in cells if cell.command))
        more = len(commands) - _MOST_COMMANDS
        shown = commands[:_MOST_COMMANDS] + [f"and {more} more: cells.csv"] * (more > 0)
        bad = [problem(cell) for cell in cells if cell.status not in ("done", LEFT_OUT)]
        self.cells.append(
            {
                "title": title,
                "score": score,
                "lines": [line for line in lines if line],
                "problems": bad,
                "commands": shown,
            }
        )
        return len(self.cells) - 1


def page(contents: Contents, plots: Sequence[Plot]) -> str:
    """Return the page."""
    made = Page(contents)
    title = contents.study.protocol.title
    body = [
        _findings(contents.findings),
        *(_section(made, section) for section in contents.sections),
        _maps(made),
        *(_figure(plot) for plot in plots),
        _section(made, contents.correlations) if contents.correlations.tables else "",
        _unfinished(contents),
        _about(),
    ]
    links = [("findings", "Findings"), *((s.name, s.short) for s in contents.sections)]
    links += [("maps", "Heat maps")] * bool(contents.maps)
    links += [(plot.name, plot.title.partition(" ·")[0]) for plot in plots]
    navigation = "".join(f'<a href="#{name}">{escape(label)}</a>' for name, label in links)
    data = json.dumps(made.cells, ensure_ascii=False).replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_asset('page.css')}</style>\n</head>\n<body>\n"
        f'<nav aria-label="Sections"><div>{navigation}</div>'
        '<button class="theme" type="button" title="Light or dark">◐</button></nav>\n'
        f"<header><h1>{escape(title)}</h1>{_facts(contents)}</header>\n"
        f"<main>\n{''.join(body)}</main>\n"
        '<div id="tip" role="tooltip" hidden></div>\n'
        f'<script type="application/json" id="cells">{data}</script>\n'
        f"<script>\n{_asset('page.js')}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return files("ctxbench.report").joinpath(name).read_text(encoding="utf-8")


def _facts(contents: Contents) -> str:
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts(contents)
    )
    return f'<dl class="facts">{rows}</dl>'


# -------------------------------------------------------------------- findings

_CLASS = {APPEARS: "appears", HOLDS: "appears", PARTLY: "in-part", NOT: "not", FAILS: "not"}


def _findings(found: Sequence[Finding]) -> str:
    items = "".join(
        f'<li id="finding-{f.name}"><span class="verdict {_CLASS.get(f.verdict, "")}">{f.verdict}'
        f"</span><div>{escape(f.text)}{_by_seed(f)}{_evidence(f)}</div></li>"
        for f in found
    )
    return (
        '<section id="findings"><h2>Which findings of the paper appear</h2>'
        '<p class="caption">Computed from the cells of this study: a statement holds where the '
        "95&nbsp;% interval of the difference lies on its side, fails where it lies on the other, "
        "and stays undecided between. Intervals are paired over the documents that both sides were "
        "measured on; the shares are the same for every study.</p>"
        f'<ul class="findings">{items}</ul></section>\n'
    )


def _by_seed(found: Finding) -> str:
    return f'<p class="seeds">{escape(found.by_seed)}</p>' if found.seeds else ""


def _evidence(found: Finding) -> str:
    if not found.evidence:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in found.evidence)
    count = len(found.evidence)
    return f"<details><summary>{count} test{'s' * (count > 1)}</summary><ul>{items}</ul></details>"


# ---------------------------------------------------------------------- tables


def _section(made: Page, section: Section) -> str:
    shown = made.contents.variant(section)
    variants = "".join(
        f'<div class="variant" data-length="{table.length or ""}"{_hidden(table is not shown)}>'
        f"{_table(made, table)}</div>"
        for table in section.tables
    )
    theirs = "".join(
        f"<details><summary>{escape(table.title)}</summary>{_table(made, table)}</details>"
        for table in section.theirs
    )
    after = ", ".join(str(number) for number in section.shown.numbers)
    after = f'<span class="after">after Table{"s" * ("," in after)} {after}</span>' if after else ""
    return (
        f'<section id="{section.name}"><h2>{escape(section.title)}{after}</h2>'
        f'<p class="caption">{escape(section.shown.caption)}</p>'
        f"{_switch(section, shown)}{variants}{theirs}</section>\n"
    )


def _hidden(yes: bool) -> str:
    return " hidden" * yes


def _switch(section: Section, shown: Table) -> str:
    if len(section.tables) < 2:
        return ""
    buttons = "".join(
        f'<label><input type="radio" name="length-{section.name}" data-length="{table.length}"'
        f"{' checked' * (table is shown)}><span>{length_name(table.length or 0)}</span></label>"
        for table in section.tables
    )
    return f"<fieldset><legend>Length (tokens)</legend>{buttons}</fieldset>"


def _table(made: Page, table: Table) -> str:
    notes = [*((note, "") for note in table.notes), *((p, "bad") for p in problems(table))]
    items = "".join(f'<li class="{name}">{escape(note)}</li>' for note, name in notes)
    below = f'<ul class="notes">{items}</ul>' if items else ""
    if not table.lines:
        return below
    texts = [_is_text(table, place) for place in range(len(table.heads))]
    bodies, first = [], True
    for group, lines in grouped(table):
        rows = []
        if group:
            span = len(table.heads) + 1
            rows.append(f'<tr class="group"><th colspan="{span}">{escape(group)}</th></tr>')
        for line in lines:
            rows.append(_line(made, line, texts, first))
            first = False
        bodies.append(f"<tbody>{''.join(rows)}</tbody>")
    return (
        f'<div class="scroll"><table><thead>{_heads(table)}</thead>{"".join(bodies)}</table></div>'
        f"{below}"
    )


def _heads(table: Table) -> str:
    groups = [(group, len(list(heads))) for group, heads in groupby(g for g, _ in table.heads)]
    above = ""
    if any(group for group, _ in groups) and len(groups) < len(table.heads):
        spans = "".join(f'<th colspan="{count}">{escape(group)}</th>' for group, count in groups)
        above = f'<tr class="groups"><th></th>{spans}</tr>'
    heads = "".join(
        f'<th scope="col"{_text(_is_text(table, place))}{_first(table, place)}>'
        f'<button type="button">{escape(label)}</button></th>'
        for place, (_, label) in enumerate(table.heads)
    )
    return f"{above}<tr><th></th>{heads}</tr>"


def _is_text(table: Table, place: int) -> bool:
    """Return whether a column holds words, which stand to the left."""
    entries = (line.entries[place] for line in table.lines)
    return any(isinstance(e.sort, str) and e.number is None for e in entries)


def _text(yes: bool) -> str:
    return ' class="text"' * yes


def _first(table: Table, place: int) -> str:
    """Return which way a column sorts first: less is better in perplexities."""
    numbers = [line.entries[place].number for line in table.lines]
    ascending = any(number and number.measure.perplexity for number in numbers)
    return ' data-first="ascending"' * ascending


def _line(made: Page, line: Line, texts: Sequence[bool], first: bool) -> str:
    cells, stop = [], first
    for entry, text in zip(line.entries, texts, strict=True):
        cells.append(_cell(made, entry, text, stop))
        stop = stop and entry.number is None  # the first cell with a tooltip is the tab stop
    mean = ' class="mean"' * line.summary
    return f'<tr{mean}><th scope="row">{escape(line.label)}</th>{"".join(cells)}</tr>'


def _cell(made: Page, entry: Entry, text: bool, stop: bool) -> str:
    sort = f' data-sort="{escape(str(entry.sort))}"' if entry.sort is not None else ""
    interval = f"<small>{escape(entry.interval)}</small>" if entry.interval else ""
    if entry.number is None:
        return f"<td{_text(text)}{sort}>{escape(entry.text)}{interval}</td>"
    number = made.note(*_about_number(made.contents, entry.number))
    names = " ".join(filter(None, (entry.mark, _STATES.get(entry.state, ""))))
    return (
        f'<td tabindex="{0 if stop else -1}" data-cell="{number}"{sort}'
        f"{f' class={chr(34)}{names}{chr(34)}' if names else ''}>"
        f"<b>{escape(entry.text)}</b>{interval}</td>"
    )


def _about_number(contents: Contents, number: Number):
    """Return what the tooltip of a number says."""
    title = f"{number.row.label} · {number.measure.told}"
    if number.estimate is None:
        reasons = dict.fromkeys(c.reason or "" for c in number.cells if c.status == LEFT_OUT)
        return title, number.state, list(reasons), number.cells
    perplexity = number.measure.perplexity
    found = number.estimate
    interval = "one unit only: no interval"
    if found.low == found.low:
        interval = f"95 % interval {show(found.low, perplexity)} to {show(found.high, perplexity)}"
    units = f", {found.units} independent" * (found.units != found.documents)
    theirs = beside(number, contents.study)
    lines = [
        f"{interval}; {found.documents} documents{units}",
        _seeds(number),
        _marked(number),
        f"Paper, on its own model: {theirs}" if theirs else "",
    ]
    return title, show(found.value, perplexity), lines, number.cells


def _seeds(number: Number) -> str:
    if number.seeds[0][0] is None:
        return "without a training seed"
    perplexity = number.measure.perplexity
    shown = ", ".join(f"seed {seed}: {show(value, perplexity)}" for seed, value in number.seeds)
    planned = len(number.row.seeds)
    return shown + (f" ({len(number.seeds)} of {planned} seeds)" * (len(number.seeds) < planned))


def _marked(number: Number) -> str:
    if number.mark == "best":
        return "Better than every other row (paired test, Holm; every seed)."
    if number.mark == "tied":
        return f"Not told apart from {', '.join(number.rivals)}."
    return ""


# --------------------------------------------------------------------- figures


def _maps(made: Page) -> str:
    contents = made.contents
    if not contents.maps:
        return ""
    further = ", ".join(found.row.label for found in contents.trained_further)
    five = f" Figure 5 compares {further}." if further else ""
    drawn = "".join(_map(made, found) for found in contents.maps)
    return (
        '<section id="maps"><h2>Needle over length and depth'
        '<span class="after">after Figures 1, 5</span></h2>'
        '<p class="caption">Score in percent; depth downwards, 0 is the beginning of the text. The '
        "dashed line is the longest length the row was trained to, or the model's own window; "
        "hatched: not there."
        f'{escape(five)}</p><div class="maps">{drawn}</div></section>\n'
    )


def _map(made: Page, found: Map) -> str:
    heat = found.heat
    heads = "".join(f'<th scope="col">{length_name(length)}</th>' for length in heat.lengths)
    rows, stop = [], True
    for depth in heat.depths:
        cells = []
        for place, length in enumerate(heat.lengths, 1):
            edge = "edge" if place == heat.boundary else ""
            cells.append(_map_cell(made, found, length, depth, edge, stop))
            stop = False
        rows.append(f'<tr><th scope="row">{depth:g}</th>{"".join(cells)}</tr>')
    trained, window = found.row.trained_length, made.contents.study.window
    told = f"trained to {length_name(trained)}" if trained else f"window {length_name(window)}"
    return (
        f'<div class="map"><h3>{escape(found.row.label)} <span>{told}</span></h3><table><thead><tr>'
        f"<th>depth</th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _map_cell(made: Page, found: Map, length: int, depth: float, edge: str, stop: bool) -> str:
    scores = found.heat.scores.get((length, depth))
    cells = [cell for cell in found.cells if cell.column.length == length]
    title = f"{found.row.label} · {length_name(length)} tokens, depth {depth:g} %"
    focus = f'tabindex="{0 if stop else -1}" data-cell='
    if not scores:
        return f'<td {focus}"{made.note(title, "not there", [], cells)}" class="none {edge}"></td>'
    mean = 100 * sum(scores) / len(scores)
    low, high = wilson(scores)
    count = f"{len(scores)} document{'s' * (len(scores) > 1)}"
    number = made.note(
        title,
        f"{mean:.0f}",
        [f"95 % interval {100 * low:.0f} to {100 * high:.0f}; {count}, mean over seeds"],
        cells,
    )
    names = " ".join(filter(None, ("high" if mean >= _HIGH else "", edge)))
    return f'<td {focus}"{number}" class="{names}" style="--v:{mean:.0f}">{mean:.0f}</td>'


def _figure(plot: Plot) -> str:
    return (
        f'<section id="{plot.name}"><h2>{escape(plot.title)}</h2><figure>{plot.svg()}'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure></section>\n"
    )


# ------------------------------------------------------------------------ rest


def _unfinished(contents: Contents) -> str:
    cells = contents.study.unfinished
    if not cells:
        return ""
    items = "".join(f'<li class="bad">{escape(problem(cell))}</li>' for cell in cells)
    return (
        f'<section id="unfinished"><h2>Not there</h2><p class="caption">{len(cells)} of '
        f'{len(contents.study.planned)} cells.</p><ul class="notes">{items}</ul></section>\n'
    )


def _about() -> str:
    items = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in ABOUT)
    return f'<section id="about"><h2>About the numbers</h2>{items}</section>\n'
