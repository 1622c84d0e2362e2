"""What stands on top of a report: the collapse and its cure, decided by intervals or not."""

from dataclasses import replace
from pathlib import Path

from ctxbench.report.contents import gather
from ctxbench.report.findings import findings
from ctxbench.report.headline import headlines
from ctxbench.report.numbers import Numbers
from ctxbench.report.study_results import load_study
from ctxbench.study.loading import load_study as study_file
from tests.report.synthetic import mini_plan, write_study

RESULTS = Path(__file__).parents[2] / "results" / "mini"


def test_the_stored_miniature_decides_both(mini_study):
    found = headlines(Numbers(gather(mini_study).study))
    assert [said.partition(":")[0] for said in found] == ["Needle", "Four of eight", "Perplexity"]
    assert all("it collapses. Cured, the intervals apart, by " in said for said in found)


def test_few_documents_decide_nothing(tmp_path):
    study = write_study(tmp_path / "few", mini_plan(), samples=2)
    needle, *_ = headlines(Numbers(gather(study).study))
    assert "undecided whether it collapses" in needle
    assert needle.endswith("the intervals overlap, or none was measured.")


def test_without_a_length_beyond_the_window_nothing_is_said(tmp_path):
    plan = mini_plan()
    plan["window"] = 4096
    study = write_study(tmp_path / "within", plan, samples=4)
    assert headlines(Numbers(gather(study).study)) == ()


def test_controls_are_no_cure(mini_study):
    contents = gather(mini_study)
    methods = [row for row in contents.study.rows if row.group != "control"]
    assert f"of {len(methods) - 1} methods" in headlines(contents.numbers)[0]


def test_the_quick_miniature_has_enough_documents_to_decide():
    """The stored answers of its rows, cut to the columns and documents that --quick reads."""
    quick = {column.name: column for column in study_file("mini", quick=True).columns}
    rows = {row.name for row in study_file("mini", quick=True).rows}
    stored = load_study(RESULTS)
    cells = {
        key: replace(cell, leaves=_first(cell.leaves, quick[key[2]].documents))
        for key, cell in stored.cells.items()
        if key[0] in rows and key[1] in (None, 0) and key[2] in quick
    }
    protocol = replace(
        stored.protocol,
        rows=tuple(replace(r, seeds=r.seeds[:1]) for r in stored.rows if r.name in rows),
        columns=tuple(column for column in stored.columns if column.name in quick),
    )
    numbers = Numbers(replace(stored, protocol=protocol, cells=cells))
    found = headlines(numbers)
    assert [said.partition(":")[0] for said in found] == ["Needle", "Four of eight", "Perplexity"]
    assert all("it collapses. Cured, the intervals apart, by " in said for said in found)
    assert {f.name: f.verdict for f in findings(numbers)}["base-collapses"] == "appears"


def _first(leaves, documents):
    """Return the first so many samples of each leaf task, all where a part is named otherwise."""
    count = documents if isinstance(documents, int) else None
    return {leaf: samples[:count] for leaf, samples in leaves.items()}
