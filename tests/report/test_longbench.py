"""LongBench's plain and macro means, for its 16, 21 and 13 data sets, and with some not there."""

import json
from statistics import fmean

import pytest

from ctxbench.core import longbench_sets as longbench
from ctxbench.report.formats import markdown
from ctxbench.report.layouts import LAYOUTS
from ctxbench.report.longbench import data_set
from ctxbench.report.numbers import Measure, Numbers
from ctxbench.report.study_results import load_study
from ctxbench.report.tables import fill
from tests.report.synthetic import column, paper_plan, write_study

LAYOUT = next(layout for layout in LAYOUTS if layout.name == "longbench")


def study(folder, *groups, remove=(), samples=6):
    """The table of a study of two rows; `remove`: (row, data set) without samples."""
    plan = paper_plan(seeds=(0, 1))
    plan["rows"] = [r for r in plan["rows"] if r["name"] in ("base", "pi")]
    plan["columns"] = [column(g, "longbench", g, length=32768) for g in groups]
    write_study(folder, plan, samples=samples)
    for row, name in remove:
        for file in folder.glob(f"cells/{row}/*/*/samples_*_{name}_2*"):
            file.unlink()
    numbers = Numbers(load_study(folder))
    (table,) = fill(LAYOUT, numbers)
    return numbers, table


def values(table, row):
    place = [label for _, label in table.heads].index(row)
    return {line.label: line.entries[place] for line in table.lines}


SETS = {
    "longbench_32k": {"of 16": longbench.PAPER},
    "longbench21_32k": {"of 21": longbench.ALL, "of the paper's 16": longbench.PAPER},
    "longbench_e_32k": {"of 13": longbench.E},
}


@pytest.mark.parametrize(("group", "means"), SETS.items())
def test_plain_and_macro_means(tmp_path, group, means):
    numbers, table = study(tmp_path, group)
    for row in ("Base", "PI"):
        found = values(table, row)
        in_study = next(r for r in numbers.study.rows if r.label == row)
        samples = numbers.leaves(in_study, Measure("", numbers.study.columns))
        scores = {
            data_set(leaf): fmean(r.total for r in records) for leaf, records in samples.items()
        }
        whole = max(means.values(), key=len)
        by_category = {
            longbench.LABELS[category]: fmean(scores[name] for name in names if name in whole)
            for category, names in longbench.CATEGORIES.items()
        }
        for category, mean in by_category.items():
            assert found[category].sort == pytest.approx(mean)
        for said, names in means.items():
            macro = fmean(
                fmean(scores[n] for n in members if n in names)
                for members in longbench.CATEGORIES.values()
            )
            assert found[f"Mean {said}"].sort == pytest.approx(fmean(scores[n] for n in names))
            assert found[f"Macro mean {said}"].sort == pytest.approx(macro)
            assert found[f"Macro mean {said}"].interval
            assert len(found[f"Macro mean {said}"].number.seeds) == (2 if row == "PI" else 1)
    summaries = [line.label for line in table.lines if line.summary]
    plain = [f"{kind} {said}" for said in means for kind in ("Mean", "Macro mean")]
    assert summaries == [*longbench.LABELS.values(), *plain]
    assert not table.notes


def test_the_two_means_differ():
    """Six categories of 2 to 3 tasks each: code and synthetic weigh more in the macro mean."""
    sizes = {
        len([n for n in names if n in longbench.PAPER]) for names in longbench.CATEGORIES.values()
    }
    assert sizes == {2, 3}


def test_a_data_set_that_one_row_lacks_is_said_and_not_passed_over(tmp_path):
    _, table = study(tmp_path, "longbench_32k", remove=[("pi", "lcc")])
    found, base = values(table, "PI"), values(table, "Base")
    for label in ("lcc", "Code", "Mean of 16", "Macro mean of 16"):
        assert found[label].state == "incomplete"
        assert base[label].state == "done"
    assert found["Synthetic"].state == found["repobench-p"].state == "done"
    text = markdown(table)
    assert (
        "Not there: PI, seed 0, longbench_32k: incomplete: no samples of longbench_32k_lcc" in text
    )
    assert "PI, seed 1, longbench_32k: incomplete: no samples of longbench_32k_lcc" in text


def test_a_seed_that_lacks_one_leaves_the_others(tmp_path):
    study(tmp_path, "longbench_32k")
    next(tmp_path.glob("cells/pi/seed-1/*/samples_*_lcc_2*")).unlink()
    (table,) = fill(LAYOUT, Numbers(load_study(tmp_path)))
    number = values(table, "PI")["Macro mean of 16"].number
    assert [seed for seed, _ in number.seeds] == [0]
    assert number.problems == (
        "PI, seed 1, longbench_32k: incomplete: no samples of longbench_32k_lcc",
    )


def test_a_part_of_longbench_has_no_macro_mean(tmp_path):
    """Fewer data sets in all rows: the plain mean says of how many, and the note which."""
    plan = paper_plan(seeds=(0,))
    plan["rows"] = plan["rows"][:1]
    plan["columns"] = [column("lb", "longbench", "longbench_32k", length=32768)]
    plan["columns"][0]["tasks"] = [f"longbench_32k_{n}" for n in ("qasper", "lcc", "trec")]
    whole = {**plan, "columns": [column("lb", "longbench", "longbench_32k", length=32768)]}
    write_study(tmp_path, whole, samples=4)
    (tmp_path / "study.json").write_text(json.dumps(plan))
    (table,) = fill(LAYOUT, Numbers(load_study(tmp_path)))
    assert [line.label for line in table.lines] == ["qasper", "trec", "lcc", "Mean of 3"]
    (note,) = table.notes
    assert note.startswith("LongBench here is not its 16 data sets: without narrativeqa, multi")
    assert "no macro mean" in note


def test_two_lengths_have_their_own_means(tmp_path):
    _, table = study(tmp_path, "longbench_16k", "longbench_32k", samples=3)
    groups = [line.group for line in table.lines]
    assert [g for n, g in enumerate(groups) if g not in groups[:n]] == [
        *("longbench_16k", "longbench_32k", "Means, longbench_16k", "Means, longbench_32k")
    ]
    assert sum(line.label == "Macro mean of 16" for line in table.lines) == 2
