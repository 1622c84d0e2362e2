"""Writes a report: Markdown, LaTeX, CSV, PNG, and the page.

    OUT/report.md  report.html  tables.tex  cells.csv  comparisons.csv  tables/*.csv  figures/*.png

Equal cells give equal files.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

from ctxbench.core.atomic_file import write_inside
from ctxbench.report import heatmap
from ctxbench.report.contents import Contents, Section, gather
from ctxbench.report.figures import Plot, have_matplotlib, plots, require_matplotlib
from ctxbench.report.formats import csv_text, latex, markdown, plain_markdown, write_csv
from ctxbench.report.numbers import Measure, problem
from ctxbench.report.page import page
from ctxbench.report.tables import Table
from ctxbench.report.text import ABOUT, facts


def write_report(folder: Path, out: Path | None = None, figures: bool = True) -> list[Path]:
    """Write the report of a study folder; return the files written.

    Args:
        folder: what `ctxbench study` wrote.
        out: where to write; `report` in the folder by default.
        figures: draw Figures 2 to 4 and the PNGs; needs matplotlib.

    Raises:
        FileNotFoundError: it is not a study folder.
        ValueError: its study.json is damaged, or matplotlib is asked for and not installed.
    """
    out = out or folder / "report"
    if figures:
        require_matplotlib()
    contents = gather(folder)
    drawn = plots(contents.numbers, contents.panels) if figures else []
    texts = {
        "report.html": page(contents, drawn),
        "report.md": report_markdown(contents, drawn if figures else None),
        "tables.tex": "\n".join(latex(table) for table in _all_tables(contents)),
        "cells.csv": _cells_csv(contents),
        "comparisons.csv": _comparisons_csv(contents),
        **{f"tables/{table.name}.csv": csv_text(table) for table in _all_tables(contents)},
    }
    written = []
    for name, text in texts.items():
        written.append(write_inside(out, name, text.encode("utf-8")))
    return written + (_pictures(contents, drawn, out / "figures") if figures else [])


def _all_tables(contents: Contents) -> list[Table]:
    sections = (*contents.sections, contents.correlations)
    return [table for section in sections for table in section.tables]


def _pictures(contents: Contents, drawn: Iterable[Plot], folder: Path) -> list[Path]:
    if folder.is_symlink():
        raise ValueError(
            f"{folder} is a link, and nothing is written through it. Remove it, or give --out."
        )
    written = []
    for name, maps in (("figure-1", contents.maps), ("figure-5", contents.trained_further)):
        if maps:
            heatmap.draw([found.heat for found in maps], folder / f"{name}.png")
            written.append(folder / f"{name}.png")
    for plot in drawn:
        plot.png(folder / f"{plot.name}.png")
        written.append(folder / f"{plot.name}.png")
    return written


# -------------------------------------------------------------------- Markdown


def report_markdown(contents: Contents, drawn: Sequence[Plot] | None) -> str:
    """Return the report as Markdown, with pictures of `drawn`; None: there are none at all."""
    parts = [f"# {plain_markdown(contents.study.protocol.title)}\n"]
    parts += [f"{plain_markdown(said)}\n" for said in contents.headlines]
    parts.append("".join(f"- {name}: {plain_markdown(text)}\n" for name, text in facts(contents)))
    parts += _markdown_maps(contents) if drawn is not None else []
    parts.append("## Which findings of the paper appear\n")
    for found in contents.findings:
        evidence = "".join(f"  - {plain_markdown(line)}\n" for line in found.evidence)
        seeds = f" ({found.by_seed})" if found.seeds else ""
        parts.append(f"- **{found.verdict}**: {found.text}{seeds}\n{evidence}")
    there = [section for section in contents.sections if section.there]
    parts += [_markdown_section(section, contents.reference) for section in there]
    parts.append(_markdown_figures(drawn))
    if contents.correlations.tables:
        parts.append(_markdown_section(contents.correlations, contents.reference))
    if contents.study.unfinished:
        problems = (plain_markdown(problem(cell)) for cell in contents.study.unfinished)
        listed = "".join(f"- {found}\n" for found in problems)
        parts.append(f"## Not there\n\n{listed}")
    if absent := [section for section in contents.sections if not section.there]:
        parts.append("## Not in this study\n")
        parts += [_markdown_absent(section) for section in absent]
    parts.append("## About the numbers\n\n" + "\n\n".join(ABOUT) + "\n")
    return "\n".join(parts)


def _title(section: Section) -> str:
    """Return a section's title, with the paper's tables that it is made after."""
    after = ", ".join(map(str, section.shown.numbers))
    return section.title + (f" (after Table{'s' * (',' in after)} {after})" if after else "")


def _markdown_section(section: Section, reference: int) -> str:
    parts = [f"## {_title(section)}\n\n{section.shown.caption}\n"]
    for table in sorted(section.tables, key=lambda table: table.length != reference):
        if len(section.tables) > 1:
            parts.append(f"### {table.title}\n")
        parts.append(markdown(table))
    parts += [f"#### {table.title}\n\n{markdown(table)}" for table in section.theirs]
    return "\n".join(parts)


def _markdown_absent(section: Section) -> str:
    """Return why a table is not there, and the paper's."""
    notes = " ".join(map(plain_markdown, section.shown.notes))
    theirs = [f"#### {table.title}\n\n{markdown(table)}" for table in section.theirs]
    return "\n".join([f"### {_title(section)}\n\n{notes}\n", *theirs])


def _markdown_maps(contents: Contents) -> list[str]:
    if not contents.maps:
        return []
    shown = (
        "## Needle over length and depth (after Figures 1, 5)\n\n"
        "![score over length and depth](figures/figure-1.png)\n"
    )
    further = "![methods trained in several ways](figures/figure-5.png)\n"
    return [shown, *[further] * bool(contents.trained_further)]


def _markdown_figures(drawn: Sequence[Plot] | None) -> str:
    parts = []
    for plot in drawn or ():
        parts.append(
            f"## {plot.title}\n\n![{plot.title}](figures/{plot.name}.png)\n\n{plot.caption}\n"
        )
    if drawn is None:
        hint = "" if have_matplotlib() else " They need matplotlib: `pip install matplotlib`."
        parts.append(f"Figures were not drawn.{hint}\n")
    return "\n".join(parts)


# ------------------------------------------------------------------------- CSV


def _cells_csv(contents: Contents) -> str:
    """Return every cell: one line per row, seed and column."""
    head = ["row", "seed", "column", "kind", "length", "shots", "status", "reason"]
    lines: list[list[object]] = [[*head, "value", "low", "high", "units", "documents", "command"]]
    for cell in contents.study.cells.values():
        column = cell.column
        found = contents.numbers.of_cell(cell)
        numbers = ["", "", "", "", ""]
        if found:
            ends = (f"{value:.6g}" for value in (found.value, found.low, found.high))
            numbers = [*ends, found.units, found.documents]
        seed = "" if cell.seed is None else cell.seed
        who = [cell.row.name, seed, column.name, column.kind, column.length or ""]
        lines.append(
            [*who, column.shots or "", cell.status, cell.reason or "", *numbers, cell.command or ""]
        )
    return write_csv(lines)


def _comparisons_csv(contents: Contents) -> str:
    """Return the paired test of every two rows in every column."""
    study = contents.study
    lines: list[list[object]] = [
        ["column", "row", "less row", "difference", "low", "high", "p", "units"]
    ]
    for column in study.columns:
        measure = Measure("", (column,))
        for one, other in combinations(study.rows, 2):
            found = contents.numbers.difference(one, other, measure)
            if found:
                values = (found.value, found.low, found.high, found.p)
                shown = [f"{value:.6g}" for value in values]
                lines.append([column.name, one.name, other.name, *shown, found.units])
    return write_csv(lines)
