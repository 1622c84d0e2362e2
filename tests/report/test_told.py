"""What a reader must be told of how numbers came about: untrained methods, cut columns."""

import json

import pytest

from ctxbench.report.contents import gather
from ctxbench.report.heatmap import heat_maps
from ctxbench.report.result_files import find_runs
from ctxbench.report.write import write_report
from tests.report.synthetic import mini_plan, write_study

SAID = "the method needs training and had none"


def change_results(folder, row, change):
    """Change what the model or lm_eval said of itself in all cells of a row."""
    files = list((folder / "cells" / row).rglob("results_*.json"))
    assert files
    for file in files:
        content = json.loads(file.read_text())
        change(content["config"])
        file.write_text(json.dumps(content))


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "study", mini_plan(seeds=(0,)), samples=8, compact=False)


def test_a_method_that_needs_training_and_had_none_is_told_everywhere(study, tmp_path):
    change_results(study, "self_extend", lambda config: config["ctxbench"].update(untrained=True))
    label = gather(study).study.row("self_extend").label
    write_report(study, tmp_path / "out", figures=False)
    text = (tmp_path / "out" / "report.md").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"- Untrained: {label}: {SAID}." in text
    assert f"<dt>Untrained</dt><dd>{label}: {SAID}.</dd>" in page
    tables = [part for part in text.split("\n## ") if f"| {label} |" in part]
    measured = [part for part in tables if not part.startswith(("Scale", "Training"))]
    assert len(measured) >= 4
    assert all(f"- {label}: {SAID}." in part for part in measured)
    maps = heat_maps(find_runs([study]), family=None)
    assert "self_extend, which needs training and had none" in {found.method for found in maps}


def test_nothing_is_said_where_all_is_as_it_should_be(study, tmp_path):
    write_report(study, tmp_path / "out", figures=False)
    assert SAID not in (tmp_path / "out" / "report.md").read_text()


def test_a_column_cut_by_limit_is_not_whole(study):
    change_results(study, "pi", lambda config: config.update(limit=4.0))
    contents = gather(study)
    cells = [cell for key, cell in contents.study.cells.items() if key[0] == "pi"]
    assert {cell.status for cell in cells} == {"incomplete"}
    assert {cell.reason for cell in cells} == {"measured with --limit 4, not whole"}
    overview = contents.variant(contents.sections[0])
    (line,) = [line for line in overview.lines if line.label == "PI"]
    assert "incomplete" in {entry.text for entry in line.entries}
