"""Figures 1 to 5: what they hold, and that their names can be read."""

import json
import shutil
from itertools import combinations
from pathlib import Path

import pytest

from ctxbench.report.archive import NAME, unpack
from ctxbench.report.contents import gather
from ctxbench.report.curves import by_position, many_shot
from ctxbench.report.figures import plots
from ctxbench.report.layouts import LAYOUTS

RESULTS = Path(__file__).parents[2] / "results" / "mini"


@pytest.fixture(scope="module")
def mini():
    """The stored results of the miniature."""
    return gather(RESULTS)


def test_every_table_and_figure_from_the_stored_miniature(mini):
    absent = [section.name for section in mini.sections if not section.shown.lines]
    assert absent == ["scale-grid"], "a study of its own"
    assert len(mini.sections) == len(LAYOUTS)
    assert len(mini.maps) == len(mini.study.rows), "Figure 1"
    assert {found.row.method for found in mini.trained_further} >= {"dynamic_ntk"}, "Figure 5"
    assert all(found.heat.boundary for found in mini.maps), "the trained length's line"
    assert many_shot(mini.numbers), "Figure 2"
    assert by_position(mini.numbers), "Figure 3"
    assert [panel.title for panel in mini.panels] == ["Needle", "Many-shot", "Four of eight"]
    shown = [e for s in mini.sections for t in s.tables for line in t.lines for e in line.entries]
    assert all(entry.interval for entry in shown if entry.state == "done")


def test_a_map_says_the_number_of_the_table(mini):
    overview = mini.variant(mini.sections[0])
    place = [label for _, label in overview.heads].index("Needle")
    numbers = {line.label: line.entries[place].number.estimate for line in overview.lines}
    for found in mini.maps:
        e = numbers[found.row.label]
        assert found.heat.mean_text == f"mean {e.value:.2f} [{e.low:.2f}, {e.high:.2f}]"


def test_positions_are_taken_together_exactly(mini):
    """Four points a doubling; their losses weighed by tokens are the mean of all."""
    curve = by_position(mini.numbers)[0]
    xs = [point[0] for point in curve.points]
    assert xs == sorted(xs)
    assert sum(1024 < x <= 2048 for x in xs) == sum(2048 < x <= 4096 for x in xs) == 4
    column = mini.study.of_kind("nll")[0]
    records = mini.study.cells[curve.row.name, None, column.name].leaves["mini_windows_4k"]
    first = [record.positions[0] for record in records]
    assert curve.points[0][1] == pytest.approx(sum(n for n, _ in first) / sum(t for _, t in first))


@pytest.mark.parametrize("source", ["stored", "synthetic"])
def test_names_do_not_overlap(source, mini, request):
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    contents = mini if source == "stored" else gather(request.getfixturevalue("mini_study"))
    for plot in plots(contents.numbers, contents.panels):
        canvas = FigureCanvasAgg(plot.figure)
        canvas.draw()
        found = [t for axis in plot.figure.axes for t in axis.get_children() if isinstance(t, Text)]
        boxes = [(text.get_text(), text.get_window_extent()) for text in found if text.get_text()]
        assert len(boxes) >= 3
        assert all(box.x1 <= plot.figure.bbox.x1 for _, box in boxes), plot.name
        for (one, box), (other, second) in combinations(boxes, 2):
            shared = min(box.y1, second.y1) - max(box.y0, second.y0)
            beside = box.x1 <= second.x0 or second.x1 <= box.x0
            assert beside or shared <= 0.25 * box.height, (plot.name, one, other)


def test_figures_2_and_3_have_a_panel_a_row(mini):
    pytest.importorskip("matplotlib")
    drawn = {plot.name: plot.figure for plot in plots(mini.numbers, mini.panels)}
    for name, curves in (
        ("figure-2", many_shot(mini.numbers)),
        ("figure-3", by_position(mini.numbers)),
    ):
        axes = drawn[name].axes
        assert [axis.get_title("left") for axis in axes] == [curve.row.label for curve in curves]
        for axis, curve in zip(axes, curves, strict=True):
            own = max(axis.get_lines(), key=lambda line: line.get_linewidth())
            assert list(own.get_ydata()) == [point[1] for point in curve.points]
            assert len(axis.get_lines()) >= len(curves), "the others are behind it"


def test_figure_4_has_both_correlations_with_intervals(mini):
    pytest.importorskip("matplotlib")
    figure = plots(mini.numbers, mini.panels)[-1].figure
    titles = [axis.get_title("left") for axis in figure.axes]
    for title in titles:
        _, *lines = title.split("\n")
        for place, scope in ((0, "all rows"), (2, "within classes")):
            rank, linear = lines[place : place + 2]
            assert rank.startswith(f"{scope}: rank ")
            assert linear.startswith("    linear ")
            assert rank.count("[") == linear.count("[") == 1
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "Exact attention, fine-tuned" in legend


def test_a_seed_more(tmp_path):
    """The stored files as one seed, and the same again as a second: findings by seed, the order."""
    folder = tmp_path / "two"
    unpack(RESULTS / NAME, folder)
    for second in folder.glob("*/*/seed-1"):
        shutil.rmtree(second)
    plan = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    trained = [row for row in plan["rows"] if row["seeds"] != [None]]

    def judged():
        (folder / "study.json").write_text(json.dumps(plan), encoding="utf-8")
        return gather(folder).findings

    for row in trained:
        row["seeds"] = [0]
    *before, order = judged()
    assert order.verdict == "not measured"
    for row in trained:
        if not row["own_budget"]:
            row["seeds"] = [0, 1]
            cells = folder / "cells" / row["name"]
            shutil.copytree(cells / "seed-0", cells / "seed-1")
    *after, order = judged()
    for one, two in zip(before, after, strict=True):
        assert one.seeds == ()
        assert two.verdict == one.verdict
    measured = [found for found in after if found.name != "approximate-below-exact"]
    assert all(dict(f.seeds) == {0: f.verdict, 1: f.verdict} for f in measured)
    assert order.text == "The order of the groups is the same on two seeds"
    assert order.verdict == "holds"
    assert all("seed 0: " in s and "seed 1: " in s for s in order.evidence)
