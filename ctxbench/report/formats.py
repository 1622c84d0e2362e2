"""Tables as Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Sequence
from itertools import groupby

from ctxbench.core.errors import printable
from ctxbench.report.tables import Entry, Table

_LATEX = str.maketrans(
    {
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "\u2013": "--",
        "\u2212": "$-$",
        "\u03b1": r"$\alpha$",
        ">": r"$>$",
        "<": r"$<$",
    }
)


def problems(table: Table) -> list[str]:
    """Return what is failed or missing in a table, each once."""
    entries = [entry for line in table.lines for entry in line.entries]
    found = [p for entry in entries if entry.number for p in entry.number.problems]
    return list(dict.fromkeys(found))


def grouped(table: Table) -> list[tuple[str, list]]:
    """Return lines by group, in their order."""
    return [(group, list(lines)) for group, lines in groupby(table.lines, lambda line: line.group)]


def markdown(table: Table) -> str:
    """Return a table as Markdown, its notes and what is not there below it."""
    if not table.lines:
        return "".join(f"{note}\n" for note in table.notes)
    heads = [plain_markdown(" ".join(filter(None, head))) for head in table.heads]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for group, members in grouped(table):
        if group:
            lines.append(f"| *{group}* |{' |' * len(heads)}")
        for line in members:
            cells = " | ".join(_markdown(entry) for entry in line.entries)
            lines.append(f"| {plain_markdown(line.label)} | {cells} |")
    below = [*table.notes, *(f"Not there: {what}" for what in problems(table))]
    notes = "".join(f"\n- {plain_markdown(note)}" for note in below)
    return "\n".join(lines) + "\n" + notes + "\n" * bool(below)


def _markdown(entry: Entry) -> str:
    text = plain_markdown(entry.text)
    if entry.state in ("failed", "missing", "incomplete"):
        return f"*{text}*"
    text = f"**{text}**" if entry.mark == "best" else text
    return f"{text} [{entry.interval}]" if entry.interval else text


def plain_markdown(text: str) -> str:
    """Return a text of somebody's file as Markdown that shows it and does nothing else."""
    line = printable(text).replace("](", "]\\(").replace("][", "]\\[")
    return line.replace("|", r"\|").replace("<", "&lt;")


def latex(table: Table) -> str:
    """Return a table as LaTeX (booktabs); empty for a table without lines."""
    if not table.lines:
        return f"% {printable(table.title)}: {printable(' '.join(table.notes))}\n"
    groups = [(group, len(list(heads))) for group, heads in groupby(g for g, _ in table.heads)]
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{_tex(table.title)}. {_tex(table.caption)} 95\,\% intervals in brackets; bold "
        r"only where a paired test shows it.}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.heads)}}}",
        r"\toprule",
    ]
    if any(group for group, _ in groups):
        spans = [rf"\multicolumn{{{count}}}{{c}}{{{_tex(group)}}}" for group, count in groups]
        lines.append(f" & {' & '.join(spans)} \\\\")
    lines.append(f" & {' & '.join(_tex(label) for _, label in table.heads)} \\\\")
    for group, members in grouped(table):
        lines.append(r"\midrule")
        if group:
            lines.append(
                rf"\multicolumn{{{len(table.heads) + 1}}}{{l}}{{\emph{{{_tex(group)}}}}} \\"
            )
        for line in members:
            cells = " & ".join(_latex(entry) for entry in line.entries)
            lines.append(f"{_tex(line.label)} & {cells} \\\\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    below = [*table.notes, *(f"Not there: {what}" for what in problems(table))]
    return "\n".join([*lines, *(f"% {printable(note)}" for note in below)]) + "\n"


def _tex(text: str) -> str:
    return printable(text).translate(_LATEX)


def _latex(entry: Entry) -> str:
    text = _tex(entry.text)
    if entry.state in ("failed", "missing", "incomplete"):
        return rf"\emph{{{text}}}"
    text = rf"\textbf{{{text}}}" if entry.mark == "best" else text
    return rf"{text} {{\scriptsize [{_tex(entry.interval)}]}}" if entry.interval else text


def csv_text(table: Table) -> str:
    """Return a table as CSV: per entry its text, the ends of its interval, its mark."""
    heads = [" ".join(filter(None, head)) for head in table.heads]
    columns = [
        name for head in heads for name in (head, f"{head} low", f"{head} high", f"{head} mark")
    ]
    rows = [
        [line.group, line.label, *(part for entry in line.entries for part in _parts(entry))]
        for line in table.lines
    ]
    return write_csv([["group", "name", *columns], *rows])


def _parts(entry: Entry) -> tuple[str, str, str, str]:
    found = entry.number.estimate if entry.number else None
    if found is None:
        return entry.text, "", "", ""
    return entry.text, f"{found.low:.6g}", f"{found.high:.6g}", entry.mark


def write_csv(rows: Sequence[Sequence[object]]) -> str:
    """Return rows as CSV text; a text that a spreadsheet would take for a formula is quoted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_no_formula(value) for value in row] for row in rows)
    return text.getvalue()


def _no_formula(value: object) -> object:
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return value if value == "-" else f"'{value}"
    return value
