"""What stands on top of a report: the collapse and its cure, decided by intervals or not."""

from ctxbench.report.contents import gather
from ctxbench.report.headline import headlines
from ctxbench.report.numbers import Numbers
from tests.report.synthetic import mini_plan, write_study


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
