"""Everything a report holds, gathered once from a study; the writers only set it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ctxbench.core.lengths import length_name
from ctxbench.core.protocol import Row
from ctxbench.report.correlation import Panel, correlation_table, panels
from ctxbench.report.findings import findings
from ctxbench.report.headline import headlines
from ctxbench.report.heatmap import HeatMap
from ctxbench.report.layouts import LAYOUTS, Layout, own_layouts
from ctxbench.report.numbers import Measure, Number, Numbers
from ctxbench.report.paper import companion
from ctxbench.report.study_results import Cell, StudyResults, load_study
from ctxbench.report.tables import Table, fill, ordered
from ctxbench.report.verdicts import Finding


@dataclass(frozen=True)
class Section:
    """One kind of table: its variants by length, and the paper's tables it is made after."""

    name: str
    title: str
    short: str
    tables: tuple[Table, ...]
    theirs: tuple[Table, ...]

    @property
    def shown(self) -> Table:
        """The first variant; a section without lengths has no other."""
        return self.tables[0]

    @property
    def there(self) -> bool:
        """Whether the study has anything of it."""
        return any(table.lines for table in self.tables)


@dataclass(frozen=True)
class Map:
    """A row's heat map, with the cells it was made from."""

    row: Row
    heat: HeatMap
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Contents:
    """A report before it is written."""

    study: StudyResults
    numbers: Numbers
    headlines: tuple[str, ...]
    findings: tuple[Finding, ...]
    sections: tuple[Section, ...]
    correlations: Section
    panels: tuple[Panel, ...]
    maps: tuple[Map, ...]

    @property
    def reference(self) -> int:
        """The length whose variant is shown first, tokens."""
        return self.study.reference_length

    @property
    def trained_further(self) -> tuple[Map, ...]:
        """Figure 5: the maps of methods that were trained in more than one way."""
        trained = [found.row.method for found in self.maps if found.row.trained]
        return tuple(m for m in self.maps if m.row.trained and trained.count(m.row.method) > 1)

    def variant(self, section: Section) -> Table:
        """Return the section's table at the reference length, else its first."""
        at = [table for table in section.tables if table.length == self.reference]
        return at[0] if at else section.shown


def gather(folder) -> Contents:
    """Read a study folder and compute all that its report says.

    Raises:
        FileNotFoundError: it is not a study folder.
        ValueError: its study.json is damaged.
    """
    study = load_study(folder)
    numbers = Numbers(study)
    lengths = sorted({c.length for c in study.of_kind("perplexity") if c.length})
    by_length = {length: panels(numbers, length) for length in lengths}
    tables = [correlation_table(found, length) for length, found in by_length.items() if found]
    return Contents(
        study,
        numbers,
        headlines(numbers),
        tuple(findings(numbers)),
        tuple(_section(layout, numbers) for layout in (*LAYOUTS, *own_layouts(study))),
        Section("correlation", "Correlations", "Correlations", tuple(tables), ()),
        tuple(by_length.get(study.reference_length, ())),
        tuple(_maps(numbers)),
    )


def _section(layout: Layout, numbers: Numbers) -> Section:
    tables = tuple(fill(layout, numbers))
    at = [table for table in tables if table.length == numbers.study.reference_length]
    title = (at or tables)[0].title.partition(" at ")[0]
    theirs = tuple(companion(number) for number in layout.numbers)
    short = layout.short.replace("{kind}", title.partition(" by ")[0])
    return Section(layout.name, title, short, tables, theirs)


def _maps(numbers: Numbers) -> Sequence[Map]:
    """Return the maps of Figure 1: every row's needle over length and depth."""
    study = numbers.study
    columns = study.of_kind("needle")
    columns = tuple(column for column in columns if column.family == columns[0].family)
    found = []
    places: dict[tuple[int, float], list[float]] = {}
    for row in ordered(study.rows):
        trained = row.trained_length or study.window
        how = f", trained to {length_name(row.trained_length)}" if row.trained_length else ""
        mean = _mean_text(numbers.number(row, Measure("", columns)))
        heat = HeatMap("needle", study.protocol.model_name, row.label + how, "", trained, mean)
        for column in columns:
            for leaf in numbers.leaves(row, Measure("", (column,))).values():
                for record in leaf:
                    if record.length and record.depth is not None:
                        place = record.length, round(100 * record.depth, 1)
                        heat.scores.setdefault(place, []).append(record.total)
                        places[place] = []
        if heat.scores:
            cells = tuple(cell for column in columns for cell in study.seeds(row, column))
            found.append(Map(row, heat, cells))
    for made in found:  # what is not there stays visible
        made.heat.scores.update({p: [] for p in places if p not in made.heat.scores})
    return found


def _mean_text(number: Number) -> str:
    """Return the mean over lengths and depths in words; none is made over what is not there."""
    if number.estimate is None:
        return f"no mean: {number.state}"
    e = number.estimate
    return f"mean {e.value:.2f} [{e.low:.2f}, {e.high:.2f}]"
