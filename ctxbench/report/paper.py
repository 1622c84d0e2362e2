"""The paper's own tables, beside ours: results/paper/tables.json.

A row of ours is matched with a row of the paper by method and by whether it was trained; of several
trained ones (NTK-32K, NTK-64K) in the order of their trained lengths; a control has no match.
Lengths are matched as multiples of the base model's window.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from ctxbench.core.assets import PACKAGE
from ctxbench.core.lengths import length_name
from ctxbench.core.protocol import Row
from ctxbench.report.numbers import Number
from ctxbench.report.study_results import StudyResults
from ctxbench.report.tables import Entry, Line, Table


def paper_folder() -> Path:
    """Return the folder: inside an installed wheel, or in a checkout.

    Raises:
        FileNotFoundError: it is in neither.
    """
    for folder in (PACKAGE / "_paper", PACKAGE.parent / "results" / "paper"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"The paper's tables are neither in {PACKAGE / '_paper'} nor in "
        f"{PACKAGE.parent / 'results' / 'paper'}. Install ctxbench again, from a wheel or a "
        "checkout."
    )


@cache
def read_tables() -> list[dict[str, Any]]:
    """Return the paper's tables as their file has them, from Table 1 on."""
    return json.loads((paper_folder() / "tables.json").read_text(encoding="utf-8"))


def read_table(number: int) -> dict[str, Any]:
    """Return a table of the paper."""
    return read_tables()[number - 1]


def companion(number: int) -> Table:
    """Return a table of the paper in the form of ours."""
    data = read_table(number)
    decimals = data.get("decimals", 2)
    notes = (*data.get("misprints", ()), *data.get("absent", ()))
    if data["methods_in"] == "columns":
        heads = tuple(("", method["label"]) for method in data["methods"])
        lines = [_line(row["label"], "", row["values"], decimals) for row in data["rows"]]
        average = _line("Average", "", data["average"], decimals)
        lines.append(replace(average, summary=True))
    else:
        labels = data.get("labels") or [length_name(length) for length in data["columns"]]
        heads = tuple(("", label) for label in labels)
        parts = data.get("parts") or [{"name": "", "rows": data["rows"]}]
        lines = [
            _line(_label(row), part["name"], row["values"], decimals)
            for part in parts
            for row in part["rows"]
        ]
    return Table(
        f"paper-{number:02d}",
        f"Lu et al., Table {number}: {data['title']} ({data['base_model']})",
        "As printed; an empty cell has no number in the extracted text.",
        (number,),
        heads,
        tuple(lines),
        notes,
    )


def _label(row: dict[str, Any]) -> str:
    return f"{row['label']}, \u03b1 = {row['alpha']}" if "alpha" in row else row["label"]


def _line(label: str, group: str, values: list[Any], decimals: int) -> Line:
    return Line(label, group, tuple(_entry(value, decimals) for value in values))


def _entry(value: Any, decimals: int) -> Entry:
    """Return a number as printed: some have more decimals than their table."""
    if value is None:
        return Entry("", sort=None)
    rounded = f"{value:.{decimals}f}"
    text = f"{value:,}" if isinstance(value, int) else rounded
    return Entry(text if float(text.replace(",", "")) == value else f"{value:g}", sort=value)


_BESIDE = {
    "perplexity": (2, "perplexity"),
    "ruler": (3, "RULER"),
    "multiquery": (3, "RULER"),
}


def beside(number: Number, study: StudyResults) -> str:
    """Return the paper's number at the same multiple of the window, in words; empty if none."""
    length = number.measure.length
    if number.measure.kind not in _BESIDE or not length or number.measure.leaves:
        return ""
    table, name = _BESIDE[number.measure.kind]
    data = read_table(table)
    theirs = length * data["window"] // study.window
    rows = data.get("rows") or _part(data, number.measure.columns[0].family)["rows"]
    match = None if number.row.group == "control" else _match(number.row, study, rows)
    if match is None or theirs not in data["columns"]:
        return ""
    value = match["values"][data["columns"].index(theirs)]
    if value is None:
        return ""
    return f"{match['label']} {value:g} ({name} at {length_name(theirs)}, Table {table})"


def _part(data: dict[str, Any], family: str) -> dict[str, Any]:
    return data["parts"]["proof" in family]


def _match(row: Row, study: StudyResults, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    theirs = {
        r["trained_length"] or 0: r
        for r in rows
        if r["method"] == _method(row) and bool(r["trained_length"]) == row.trained
    }
    ours = {
        r.trained_length or 0
        for r in study.rows
        if _method(r) == _method(row) and r.trained == row.trained
    }
    place = sorted(ours).index(row.trained_length or 0)
    return theirs[sorted(theirs)[place]] if place < len(theirs) else None


def _method(row: Row) -> str:
    """Return the method as the paper's tables name it: a fixed alpha is its NTK, too."""
    return "dynamic_ntk" if row.method == "ntk" else row.method or ""
