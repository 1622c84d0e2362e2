"""The report as one HTML page that asks nothing of anybody: no request, no font, no library.

`page.html.jinja` is the page. Tables are written out; `page.js` sorts them, switches lengths, and
shows what a cell was made from on hover and on keyboard focus. `page.css` has the light and the
dark look.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from itertools import groupby

from ctxbench.core.intervals import wilson
from ctxbench.core.lengths import length_name
from ctxbench.report.contents import Contents, Map
from ctxbench.report.figures import Plot
from ctxbench.report.formats import grouped, problems
from ctxbench.report.numbers import Number, problem, show
from ctxbench.report.paper import beside
from ctxbench.report.study_results import LEFT_OUT, Cell
from ctxbench.report.tables import Table
from ctxbench.report.text import ABOUT, facts
from ctxbench.report.verdicts import APPEARS, FAILS, HOLDS, NOT, PARTLY

_MOST_COMMANDS = 6  # shown in a tooltip; the others are in cells.csv
_CONSTANTS = {
    "ABOUT": ABOUT,
    "HIGH": 76,  # percent, from which the other ink has the better contrast on a map's cell
    "NEWLINE": "\n",
    "STATES": {
        "failed": "failed",
        "missing": "missing",
        "incomplete": "missing",
        LEFT_OUT: "missing",
    },
    "VERDICTS": {APPEARS: "appears", HOLDS: "appears", PARTLY: "in-part", NOT: "not", FAILS: "not"},
}


@dataclass
class Tooltips:
    """What the tooltips of a page say, by the numbers of their cells.

    Attributes:
        contents: of the page.
        notes: as `page.js` reads them.
    """

    contents: Contents
    notes: list[dict] = field(default_factory=list)

    def add(self, title: str, score: str, lines: Sequence[str], cells: Sequence[Cell]) -> int:
        """Keep what a tooltip says; return its number."""
        commands = list(dict.fromkeys(cell.command for cell in cells if cell.command))
        more = len(commands) - _MOST_COMMANDS
        shown = commands[:_MOST_COMMANDS] + [f"and {more} more: cells.csv"] * (more > 0)
        bad = [problem(cell) for cell in cells if cell.status not in ("done", LEFT_OUT)]
        self.notes.append(
            {
                "title": title,
                "score": score,
                "lines": [line for line in lines if line],
                "problems": bad,
                "commands": shown,
            }
        )
        return len(self.notes) - 1

    def of_number(self, number: Number) -> int:
        """Keep what is said of a number; return the tooltip's number."""
        return self.add(*_about_number(self.contents, number))

    def of_map(self, found: Map, length: int, depth: float) -> tuple[float | None, int]:
        """Keep what is said of a heat map's cell; return its mean in percent and the number."""
        scores = found.heat.scores.get((length, depth))
        cells = [cell for cell in found.cells if cell.column.length == length]
        title = f"{found.row.label} \u00b7 {length_name(length)} tokens, depth {depth:g} %"
        if not scores:
            return None, self.add(title, "not there", [], cells)
        mean = 100 * sum(scores) / len(scores)
        low, high = wilson(scores)
        count = f"{len(scores)} document{'s' * (len(scores) > 1)}"
        line = f"95 % interval {100 * low:.0f} to {100 * high:.0f}; {count}, mean over seeds"
        return mean, self.add(title, f"{mean:.0f}", [line], cells)

    def as_json(self) -> str:
        """Return them for a script element."""
        return json.dumps(self.notes, ensure_ascii=False).replace("<", "\\u003c")


def page(contents: Contents, plots: Sequence[Plot]) -> str:
    """Return the page."""
    from jinja2 import Environment

    links = [*[("maps", "Heat maps")] * bool(contents.maps), ("findings", "Findings")]
    links += [(section.name, section.short) for section in contents.sections if section.there]
    links += [(plot.name, plot.title.partition(" \u00b7")[0]) for plot in plots]
    tooltips = Tooltips(contents)
    environment = Environment(keep_trailing_newline=True)
    environment.filters["e"] = escape
    source = "".join(line.strip() for line in _asset("page.html.jinja").splitlines())
    return environment.from_string(source).render(
        **_CONSTANTS,
        contents=contents,
        title=contents.study.protocol.title,
        links=links,
        plots=plots,
        asset=_asset,
        facts=facts,
        grouped=grouped,
        head_groups=_head_groups,
        length_name=length_name,
        less_is_better=_less_is_better,
        map_cell=tooltips.of_map,
        note_number=tooltips.of_number,
        notes=tooltips.as_json,
        problem=problem,
        problems=problems,
        text_columns=_text_columns,
    )


def _asset(name: str) -> str:
    return files("ctxbench.report").joinpath(name).read_text(encoding="utf-8")


def _head_groups(table: Table) -> list[tuple[str, int]]:
    """Return the groups above the heads, and how many heads each has."""
    return [(group, len(list(heads))) for group, heads in groupby(g for g, _ in table.heads)]


def _text_columns(table: Table) -> list[bool]:
    """Return which columns hold words, which stand to the left."""
    columns = zip(*(line.entries for line in table.lines), strict=True)
    return [any(isinstance(e.sort, str) and e.number is None for e in column) for column in columns]


def _less_is_better(table: Table, place: int) -> bool:
    """Return whether a column sorts upwards first, as perplexities do."""
    numbers = [line.entries[place].number for line in table.lines]
    return any(number and number.measure.perplexity for number in numbers)


def _about_number(contents: Contents, number: Number):
    """Return what the tooltip of a number says."""
    title = f"{number.row.label} · {number.measure.description}"
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
