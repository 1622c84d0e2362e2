"""Every table of the paper from study folders that have all its cells."""

import json
import math
import shutil
from statistics import fmean

import pytest

from ctxbench.report.formats import markdown, problems
from ctxbench.report.layouts import LAYOUTS, SCALES
from ctxbench.report.numbers import Measure, Numbers, problem
from ctxbench.report.paper import beside
from ctxbench.report.study_results import load_study
from ctxbench.report.tables import fill
from tests.report.synthetic import (
    LONGBENCH,
    SUBTASKS,
    column,
    mini_plan,
    paper_plan,
    row,
    write_study,
)


@pytest.fixture(scope="module")
def paper(paper_study):
    return Numbers(load_study(paper_study))


@pytest.fixture(scope="module")
def mini(mini_study):
    return Numbers(load_study(mini_study))


def layout(name):
    return next(layout for layout in LAYOUTS if layout.name == name)


def table(name, numbers, length=None):
    return next(found for found in fill(layout(name), numbers) if found.length == length)


def entries(found):
    return {
        (line.label, label): entry
        for line in found.lines
        for (_, label), entry in zip(found.heads, line.entries, strict=True)
    }


def test_all_tables_of_the_paper_are_declared():
    assert sorted(n for layout in LAYOUTS for n in layout.numbers) == list(range(1, 17))


@pytest.mark.parametrize("name", [layout.name for layout in LAYOUTS])
@pytest.mark.parametrize("study", ["paper", "mini"])
def test_every_table_is_filled(name, study, request):
    numbers = request.getfixturevalue(study)
    for found in fill(layout(name), numbers):
        if name == "scale-grid":
            assert not found.lines
            assert "scale-grid" in found.notes[0]
            continue
        assert found.lines
        assert {len(line.entries) for line in found.lines} == {len(found.heads)}
        assert any(entry.text for line in found.lines for entry in line.entries)
        for line in found.lines:
            for entry in line.entries:
                if entry.state == "done":
                    assert entry.interval, (found.title, line.label)


def test_heads(paper):
    heads = [label for _, label in table("overview", paper, 32768).heads]
    assert heads == ["Perplexity", "Needle", "Many-shot", "LongBench", "RULER", "Effective"]
    perplexity = table("perplexity", paper).heads
    lengths = ["2k", "4k", "8k", "16k", "32k", "64k"]
    assert perplexity == (
        ("", "Len"),
        *(("PG19", length) for length in lengths),
        *(("Proof-pile", length) for length in lengths),
    )
    subtasks = fill(layout("subtasks"), paper)
    assert [found.length for found in subtasks] == [4096, 8192, 16384, 32768, 65536]
    assert [line.label for line in subtasks[0].lines] == [*SUBTASKS, "Mean"]
    longbench = table("longbench", paper)
    assert [line.label for line in longbench.lines if not line.summary] == [*LONGBENCH]
    assert [label for _, label in longbench.heads] == [
        *("Base", "NTK-Frozen", "PI", "YaRN", "CLEX", "NTK-8x", "NTK-16x"),
        *("LM-Infinite", "Self-Extend", "LongLoRA", "Landmark", "No change"),
    ]


def test_how_cells_average(paper):
    by_subtask = entries(table("subtasks", paper, 8192))
    for method in ("PI", "NTK-Frozen"):
        mean = fmean(by_subtask[subtask, method].sort for subtask in SUBTASKS)
        assert by_subtask["Mean", method].sort == pytest.approx(mean)
        assert entries(table("ruler", paper))[method, "8k"].sort == pytest.approx(mean)
    by_task = entries(table("longbench", paper))
    mean = fmean(by_task[task, "PI"].sort for task in LONGBENCH)
    assert entries(table("overview", paper, 4096))["PI", "LongBench"].sort == pytest.approx(mean)


def test_the_overview_takes_the_needle_over_all_lengths_and_the_most_shots(mini):
    by_length = entries(table("needle", mini))
    overview = entries(table("overview", mini, 1024))
    mean = fmean(by_length["PI", n].sort for n in ("128", "256", "512", "1k", "2k", "4k"))
    assert overview["PI", "Needle"].sort == pytest.approx(mean)
    for head, name, label in (("Many-shot", "manyshot", "128"), ("Perplexity", "perplexity", "1k")):
        one, other = overview["PI", head], entries(table(name, mini))["PI", label]
        assert (one.text, one.interval, one.mark) == (other.text, other.interval, other.mark)


def test_stand_ins_are_said(mini):
    found = table("ruler", mini)
    assert found.title == "Four of eight by length"
    assert "Four of eight stands in for RULER, which this study does not have." in found.notes
    assert "LongBench is not measured in this study." in table("overview", mini, 2048).notes
    assert "RULER is not measured at this length." in table("overview", mini, 128).notes


def test_failed_and_missing_cells_are_shown_with_the_reason(mini):
    perplexity, needle = (entries(table(name, mini)) for name in ("perplexity", "needle"))
    failed, missing = perplexity["CLEX", "4k"], needle["LongLoRA", "4k"]
    assert (failed.text, missing.text) == ("failed", "missing")
    assert failed.number.problems[0] == (
        "CLEX, seed 0, ppl_4k: failed: out of memory: 3 GB asked, 2 GB there"
    )
    assert missing.number.problems[0] == "LongLoRA, seed 0, needle_4k: missing: not run"
    one = needle["Landmark", "2k"]
    assert (one.state, one.number.seeds[0][0], len(one.number.seeds)) == ("done", 0, 1)
    assert len(one.number.problems) == 1


# ------------------------------------------------------------------- the best


def two_rows(tmp_path, difference, samples=60, seeds=(0, 1)):
    """A study of two rows, one better by a share of documents."""
    plan = mini_plan(lengths=(256,), seeds=seeds)
    plan["rows"] = [row(name, name, "exact", "pi", 1024, seeds) for name in ("good", "worse")]
    plan["columns"] = [column("needle_256", "needle", "mini_needle_256", length=256)]
    folder = write_study(tmp_path / f"{difference}{seeds}", plan, samples=samples)
    for name in ("good", "worse"):
        for seed in seeds:
            for file in (folder / "cells" / name / f"seed-{seed}").rglob("samples_*"):
                lines = [json.loads(line) for line in file.read_text().splitlines()]
                for number, line in enumerate(lines):
                    wrong = name == "worse" and number < difference[seeds.index(seed)] * samples
                    line["score"] = float(not wrong and number % 7 != 6)
                file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Numbers(load_study(folder))


@pytest.mark.parametrize(
    ("difference", "mark"),
    [((0.3, 0.3), "best"), ((0.03, 0.03), "tied"), ((0.5, 0.0), "tied")],
)
def test_the_best_is_marked_only_where_it_is(tmp_path, difference, mark):
    """Clearly better; not told apart; better on one seed and equal on the other."""
    numbers = two_rows(tmp_path, difference)
    measure = Measure("", numbers.study.columns)
    good, worse = numbers.marked(numbers.study.rows, measure).values()
    assert good.mark == mark
    assert worse.mark == ("" if mark == "best" else "tied")
    assert good.rivals == (() if mark == "best" else ("worse",))


def test_a_row_with_a_schedule_of_its_own_does_not_compete(tmp_path):
    plan = mini_plan(lengths=(256,), seeds=(0,))
    plan["rows"] = [
        row("own", "own", "exact", "dynamic_ntk", 2048, (0,), own="twice the tokens"),
        row("base", "base", "frozen", "none"),
        row("bad", "bad", "approximate", "landmark", 2048, (0,)),
    ]
    plan["columns"] = [column("needle_256", "needle", "mini_needle_256", length=256)]
    numbers = Numbers(load_study(write_study(tmp_path, plan, samples=60)))
    marked = numbers.marked(numbers.study.rows, Measure("", numbers.study.columns))
    assert [number.mark for number in marked.values()] == ["", "best", ""]


def test_less_perplexity_is_better(mini):
    for name in ("perplexity", "overview"):
        found = entries(table(name, mini, None if name == "perplexity" else 2048))
        marked = [key[0] for key, e in found.items() if e.mark and key[1] in ("2k", "Perplexity")]
        assert marked
        assert "Base" not in marked


# ----------------------------------------------------------- effective lengths


def test_effective_length(mini):
    found = entries(table("needle", mini))
    assert found["Base", "Effective"].text == "256 [256]"
    assert found["NTK-16x", "Effective"].text == ">4k [4k]"
    assert found["LongLoRA", "Effective"].text == "none [none]"
    length = mini.effective_length(mini.study.row("pi"), mini.study.of_kind("needle"))
    assert (length.value, length.low, length.reached) == (2048, 2048, False)
    base = mini.number(mini.study.row("base"), Measure("", (mini.study.of_kind("needle")[1],)))
    assert length.threshold == pytest.approx(0.85 * base.estimate.value)


def test_the_lower_bound_uses_the_intervals(tmp_path):
    """Ten right of ten, as the base: the paired interval reaches below .85 of it."""
    plan = mini_plan(lengths=(128, 256), seeds=(0,))
    plan["rows"] = plan["rows"][:2]
    numbers = Numbers(load_study(write_study(tmp_path, plan, samples=10)))
    length = numbers.effective_length(numbers.study.rows[1], numbers.study.of_kind("needle"))
    assert (length.value, length.low) == (256, None)


# ------------------------------------------- what is not measured, or not all of it


def test_a_row_that_is_measured_in_few_columns_is_left_out_not_missing(tmp_path):
    plan = mini_plan(lengths=(256, 1024), seeds=(0,))
    plan["rows"] = [r for r in plan["rows"] if r["name"] in ("base", "pi")]
    plan["rows"][1]["columns"] = ["perplexity"]
    folder = write_study(tmp_path, plan, samples=6)
    for cell in (folder / "cells" / "pi").glob("*/[mn]*/"):  # needle, multiquery, manyshot, nll
        shutil.rmtree(cell)
    study = load_study(folder)
    numbers = Numbers(study)
    assert not study.unfinished
    assert len(study.planned) == len(study.columns) + 2
    needle = table("needle", numbers)
    assert entries(needle)["PI", "1k"].text == "\u2013"
    assert "\u2013: PI: measured in Perplexity only." in needle.notes
    assert not problems(needle)
    assert not any("\u2013" in note for note in table("perplexity", numbers).notes)


def test_a_task_without_samples_is_no_part_of_a_mean(tmp_path):
    """One row lacks one task of RULER: that task and the mean are not there, and it is said."""
    plan = paper_plan(seeds=(0,))
    plan["rows"] = [r for r in plan["rows"] if r["name"] in ("base", "pi")]
    plan["columns"] = [c for c in plan["columns"] if c["name"] == "ruler_8k"]
    folder = write_study(tmp_path, plan, samples=4)
    next(folder.rglob("cells/pi/seed-0/ruler_8k/samples_ruler_8k_vt_*")).unlink()
    study = load_study(folder)
    numbers = Numbers(study)
    found = entries(table("subtasks", numbers, 8192))
    assert [found[name, "PI"].state for name in ("vt", "cwe", "Mean")] == [
        *("incomplete", "done", "incomplete")
    ]
    assert found["Mean", "Base"].state == "done"
    assert entries(table("ruler", numbers))["PI", "8k"].text == "incomplete"
    (cell,) = study.unfinished
    said = "PI, seed 0, ruler_8k: incomplete: no samples of ruler_8k_vt"
    assert problem(cell) == said
    assert said in markdown(table("ruler", numbers))
    assert numbers.of_cell(cell) is None


def test_a_task_that_no_row_has_samples_of_is_known_from_the_results_file(tmp_path):
    plan = paper_plan(seeds=(0,))
    plan["rows"], plan["columns"] = (
        plan["rows"][:1],
        [c for c in plan["columns"] if c["name"] == "ruler_8k"],
    )
    folder = write_study(tmp_path, plan, samples=4)
    next(folder.rglob("samples_ruler_8k_fwe_*")).unlink()
    found = entries(table("subtasks", Numbers(load_study(folder)), 8192))
    assert found["fwe", "Base"].state == found["Mean", "Base"].state == "incomplete"


# ------------------------------------------------------------------- training


def test_training(mini):
    """Table 7: options, the common budget, a schedule of its own."""
    found = entries(table("training", mini))
    assert {label for label, _ in found} >= {"PI", "YaRN", "CLEX", "NTK-8x", "Landmark"}
    assert ("Base", "Tokens") not in found
    shown = [found["NTK-8x", head].text for head in ("Method", "Options", "Len", "Tokens")]
    assert shown == ["dynamic_ntk", "factor=4.0 floor=2048", "2,048", "655,360"]
    assert [found["NTK-8x", head].text for head in ("Batch", "lr", "Schedule")] == [
        *("4", "0.004", "common")
    ]
    assert found["NTK-8x", "\u03b1"].text == "29"


def test_longlora_beside_the_paper_s(paper):
    """Table 10: the perplexities of the one row, as in Table 2."""
    found, all_rows = (entries(table(name, paper)) for name in ("longlora", "perplexity"))
    assert {label for label, _ in found} == {"LongLoRA"}
    heads = [label for _, label in table("perplexity", paper).heads]
    assert len(heads) == 13
    assert all(found["LongLoRA", h].text == all_rows["LongLoRA", h].text for h in heads)


# ------------------------------------------------------------------- positions


def test_positions(paper):
    """The window, the common length, doublings; the losses of the buckets inside."""
    found = table("positions", paper)
    spans = [label for _, label in found.heads]
    assert spans == ["Len", "1 to 4k", "4k to 32k", "32k to 64k"]
    study = paper.study
    (leaf,) = study.cells["base", None, "nll"].leaves.values()
    assert leaf[0].bucket == 4096
    for head, first, last in (("1 to 4k", 0, 1), ("4k to 32k", 1, 8), ("32k to 64k", 8, 16)):
        inside = [part for record in leaf for part in record.positions[first:last]]
        mean = sum(nll for nll, _ in inside) / sum(tokens for _, tokens in inside)
        assert entries(found)["Base", head].sort == pytest.approx(math.exp(mean))
    assert any(entry.mark for entry in entries(found).values()), "compared in pairs"


# --------------------------------------------------------------------- scales


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("pi", {"factor": 4.0}),
        ("yarn", {"factor": 4.0}),
        ("ntk", {"alpha": 13.0}),
        ("dynamic_ntk", {"factor": 2.0}),
        ("dynamic_ntk", {"factor": 4.0, "floor": 1024}),
    ],
)
@pytest.mark.parametrize("length", [128, 512, 1024, 4096])
def test_scales_are_what_the_methods_compute(method, options, length):
    """Table 8's factor, from the lowest rotary frequency of the method itself."""
    from transformers import LlamaConfig

    from ctxbench import get_method

    config = LlamaConfig(hidden_size=128, num_attention_heads=2, max_position_embeddings=256)
    before, _ = get_method("none", length=256).frequencies(config, 256)
    after, _ = get_method(method, **options, length=max(length, 1024)).frequencies(config, length)
    scale = SCALES[method](options, 256, length)
    # NTK multiplies the base by alpha^(d/(d-2)), so the lowest frequency falls by alpha
    assert float(before[-1] / after[-1]) == pytest.approx(scale, rel=1e-6)


def test_the_grid_of_scales_has_a_row_for_each_alpha(tmp_path):
    """And none for LongLoRA, whose alpha is that of its adapters."""
    plan = mini_plan(lengths=(256, 1024), seeds=(0,))
    plan["rows"] = [row(f"a{a}", f"NTK, {a}", "frozen", "ntk", alpha=float(a)) for a in (1, 3, 7)]
    plan["rows"].append(row("l", "LongLoRA", "approximate", "longlora", factor=4.0, alpha=16))
    found = table("scale-grid", Numbers(load_study(write_study(tmp_path, plan, samples=6))))
    assert [label for _, label in found.heads] == ["alpha", "256", "1k"]
    assert [line.entries[0].text for line in found.lines] == ["1", "3", "7"]
    assert found.numbers == (9,)


# ------------------------------------------------------------------- the paper


def test_the_paper_s_number_at_the_same_multiple_of_the_window(mini):
    """1k of a window of 256 is 16k of one of 4096."""
    study = mini.study

    def said(row, kind, length):
        column = next(c for c in study.of_kind(kind) if c.length == length)
        return beside(mini.number(study.row(row), Measure("", (column,))), study)

    assert said("pi", "perplexity", 1024) == "PI 6.08 (perplexity at 16k, Table 2)"
    assert said("ntk_8x", "perplexity", 4096) == "NTK-32K 5.76 (perplexity at 64k, Table 2)"
    assert said("ntk_16x", "multiquery", 4096) == "NTK-64K 49.31 (RULER at 64k, Table 3)"
    assert said("ntk_frozen", "perplexity", 2048).startswith("NTK-Frozen 14.52")
    assert said("base", "perplexity", 2048) == "", "the paper has no number there"
    assert said("control", "perplexity", 256) == "", "the paper has no such row"
    assert said("pi", "needle", 1024) == ""
