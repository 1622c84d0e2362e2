"""What is read from a study folder, and what is said of one that is damaged."""

import json
import shutil

import pytest

from ctxbench.report.archive import NAME, unpack
from ctxbench.report.heatmap import heat_maps
from ctxbench.report.numbers import Measure, Numbers
from ctxbench.report.result_files import find_runs
from ctxbench.report.study_results import load_study
from tests.report.synthetic import mini_plan, write_study
from tests.report.test_heatmap import GRID

LENGTHS = (128, 256)


@pytest.fixture
def small(tmp_path):
    plan = mini_plan(lengths=LENGTHS, seeds=(0,))
    plan["rows"] = [row for row in plan["rows"] if row["name"] in ("base", "pi")]
    return write_study(tmp_path / "study", plan, samples=4), plan


def test_cells(small):
    folder, _ = small
    study = load_study(folder)
    assert (study.window, study.reference_length) == (256, 2048)
    assert not study.unfinished
    cell = study.cells["pi", 0, "ppl_128"]
    (records,) = cell.leaves.values()
    assert len(records) == 4
    assert all(record.weight == 64 and record.total > 0 for record in records)
    assert "train/pi/seed-0" in cell.command
    assert study.cells["base", None, "needle_256"].seed is None
    losses = study.cells["base", None, "nll"].leaves["text_ppl_4k"][0]
    assert len(losses.positions) == 16
    assert losses.total == pytest.approx(sum(nll for nll, _ in losses.positions))


def test_results_of_lm_eval_itself(tmp_path):
    """A stored real run: the report's numbers are the heat map's."""
    plan = mini_plan(lengths=(256, 2048), seeds=(0,))
    plan["rows"] = [row for row in plan["rows"] if row["name"] in ("base", "ntk_frozen")]
    plan["columns"] = [column for column in plan["columns"] if column["kind"] == "needle"]
    write_study(tmp_path, plan, samples=1)
    unpack(GRID / NAME, tmp_path / "grid")
    runs = {run.method: run for run in find_runs([tmp_path / "grid"])}
    for row, method in (("base", "none"), ("ntk_frozen", "dynamic_ntk, frozen")):
        for column in plan["columns"]:
            where = tmp_path / "cells" / row / "seed-none" / column["name"]
            for old in where.glob("*_*.json*"):
                old.unlink()
            for file in (tmp_path / "grid").glob(f"*_{runs[method].date}.json*"):
                shutil.copy(file, where / file.name)
    study = load_study(tmp_path)
    assert study.row("ntk_frozen").options["policy"] == "pinned", "as resolved, not planned"
    for row, found in zip(study.rows, heat_maps(find_runs([GRID])), strict=True):
        for column in study.columns:
            scores = [s for (n, _), v in found.scores.items() if n == column.length for s in v]
            number = Numbers(study).number(row, Measure("", (column,)))
            assert number.estimate.value == pytest.approx(sum(scores) / len(scores))
            assert number.estimate.documents == len(scores) == 100


def test_failed_missing_and_damaged_cells_say_why(small):
    folder, plan = small
    write_study(folder, plan, samples=4, failed=[("pi", "needle_128")])
    cells = folder / "cells" / "base" / "seed-none"
    (cells / "needle_256" / "cell.json").unlink()
    (next((cells / "ppl_128").glob("samples_*"))).write_text('{"doc_id": 0')
    (next((cells / "ppl_256").glob("samples_*"))).unlink()
    (next((cells / "needle_128").glob("results_*"))).unlink()
    why = {(c.row.name, c.column.name): (c.status, c.reason) for c in load_study(folder).unfinished}
    assert why.pop(("pi", "needle_128")) == ("failed", "out of memory: 3 GB asked, 2 GB there")
    assert why.pop(("base", "needle_256")) == ("missing", "not run")
    damaged, bare, empty = (why.pop(("base", c)) for c in ("ppl_128", "ppl_256", "needle_128"))
    assert not why
    assert damaged[0] == bare[0] == empty[0] == "failed"
    assert "line 1 is not a JSON object" in damaged[1]
    assert "--log_samples" in bare[1]
    assert "No results_*.json" in empty[1]
    assert str(folder) not in damaged[1] + bare[1] + empty[1]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda samples: samples[:3], "3 of the 4 samples of mini_needle_256 are there"),
        (lambda samples: samples, None),
        (
            lambda samples: [{k: v for k, v in samples[0].items() if k != "score"}, *samples[1:]],
            "Samples of mini_needle_256 lack their score: documents 0",
        ),
    ],
)
def test_cut_samples_are_no_whole_cell(small, edit, said):
    """The results file says how many documents were scored."""
    folder, _ = small
    where = folder / "cells" / "base" / "seed-none" / "needle_256"
    (results,) = where.glob("results_*")
    content = json.loads(results.read_text())
    content["results"]["mini_needle_256"]["sample_len"] = 4
    results.write_text(json.dumps(content))
    (samples,) = where.glob("samples_*")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    samples.write_text("".join(json.dumps(line) + "\n" for line in edit(lines)))
    cell = load_study(folder).cells["base", None, "needle_256"]
    assert cell.status == ("failed" if said else "done")
    assert (said or "") in (cell.reason or "")


def test_a_metric_that_is_not_there_is_a_failed_cell(small):
    folder, plan = small
    plan["columns"][0]["metric"] = "bits"
    (folder / "study.json").write_text(json.dumps(plan))
    cell = load_study(folder).cells["base", None, "ppl_128"]
    assert (cell.status, "'bits'" in cell.reason) == ("failed", True)


@pytest.mark.parametrize(
    "damage", [{"rows": None}, {"window": "x"}, {"rows": [{"name": "a", "class": "fast"}]}]
)
def test_a_damaged_plan(small, damage):
    folder, plan = small
    (folder / "study.json").write_text(json.dumps({**plan, **damage}))
    with pytest.raises(ValueError, match="not the protocol of a study"):
        load_study(folder)


def test_no_study(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no study\.json"):
        load_study(tmp_path)


def test_scores_in_percent_become_shares(tmp_path):
    plan = mini_plan(lengths=LENGTHS, seeds=(0,))
    plan["rows"] = plan["rows"][:1]
    ruler = {**plan["columns"][2], "name": "r", "kind": "ruler", "tasks": ["ruler_256"]}
    plan["columns"] = [ruler]
    study = load_study(write_study(tmp_path, plan, samples=6))
    found = Numbers(study).number(study.rows[0], Measure("", study.columns))
    assert len(study.cells["base", None, "r"].leaves) == 13
    assert 0.5 < found.estimate.value <= 1
