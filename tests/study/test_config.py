"""Study files: what is allowed, what is refused and how, what the shipped ones hold."""

import copy
import json

import pytest
import yaml

from ctxbench.cli import main
from ctxbench.core.protocol import as_json, cell_folder, read_protocol, training_folder
from ctxbench.report.archive import read_archive
from ctxbench.study import folder
from ctxbench.study.commands import evaluate_command, groups, train_command
from ctxbench.study.config import document_numbers, untrained
from ctxbench.study.loading import list_studies, load_study
from tests.study.small import ROOT, STUDY, write_study

MODEL = {"frozen": {"model": "mini"}}


def change(tmp_path, path, value):
    """Write the small study with one value changed at a dotted path."""
    study = copy.deepcopy(STUDY)
    *parents, last = path.split(".")
    place = study
    for part in parents:
        place = place[part]
    place[last] = value
    return write_study(tmp_path, **study)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("seed", [0], r"'seed' is not a setting; did you mean seeds or base\?"),
        ("rows.pi.optoins", {}, r"row pi: 'optoins' is not a setting; did you mean options"),
        ("columns.needle.length", [128], r"'length' is not a setting; did you mean lengths"),
        ("rows.pi.method", "pj", r"row pi: There is no method 'pj'; did you mean pi"),
        ("rows.pi.options", {"faktor": 2}, r"'faktor' is not a setting; did you mean factor"),
        ("rows.pi.options", {"factor": "two"}, r"factor='two' is not allowed"),
        ("train.recipe", "minni", r"There is no recipe 'minni'; did you mean mini"),
        ("train.steps", 3, r"'steps' is not a setting; did you mean eps or stages"),
        ("columns.needle.task", "mini_neddle_{length}", r"no task 'mini_neddle_256'; did you"),
        (
            "rows.pi.class",
            "exotic",
            r"row pi: class='exotic' is not allowed; it must be 'frozen' or 'exact'",
        ),
        ("rows.pi.columns", ["nedle"], r"'nedle' is not a setting; did you mean needle"),
        ("keep_rows", ["base", "po"], r"keep_rows names 'po'; did you mean pi"),
        (
            "together",
            "all",
            r"together='all' is not allowed; it must be 'row' or 'kind' or 'column'",
        ),
        ("seeds", "0", r"seeds='0' is not allowed; it must be a list, of a whole number"),
        (
            "columns.needle.lengths",
            ["4q"],
            r"lengths=\['4q'\] is not allowed; it must be a list, of a number of tokens",
        ),
        ("rows.pi.train", {"lr": 0.1}, r"another lr than the common budget.*own_budget"),
        ("rows.pi.checkpoint", "a/b", r"both train and checkpoint"),
        ("rows.pi", "yes", r"row pi is 'yes'; it must be a mapping"),
        ("base", "mimi", r"There is no study 'mimi'; did you mean mini"),
    ],
)
def test_errors_say_what_is_wrong_allowed_and_to_do(tmp_path, path, value, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        load_study(change(tmp_path, path, value))


def test_a_missing_field_is_named(tmp_path):
    study = copy.deepcopy(STUDY)
    del study["columns"]["needle"]["metric"]
    with pytest.raises(ValueError, match=r"columns needle has no .metric.\. It needs kind, task,"):
        load_study(write_study(tmp_path, **study))


def test_quick_needs_its_block(tmp_path):
    with pytest.raises(ValueError, match=r"no block `quick`\. Studies with one: .*mini"):
        load_study(write_study(tmp_path), quick=True)


def test_an_own_budget_with_its_reason_is_allowed_and_told(tmp_path):
    study = copy.deepcopy(STUDY)
    study["rows"]["pi"] |= {"train": {"lr": 0.1}, "own_budget": "why"}
    found = load_study(write_study(tmp_path, **study))
    assert found.row("pi").own_budget == "why"
    assert "--lr 0.1" in str(train_command(found, found.row("pi"), 0))
    assert found.row("pi-untrained").own_budget is None


@pytest.mark.parametrize("name", list_studies())
def test_shipped_studies_have_their_controls(name):
    study = load_study(name, overrides=MODEL.get(name))
    trained = [row for row in study.rows if row.train is not None]
    controls = [row for row in study.rows if row.group == "control"]
    if trained:
        assert [r for r in controls if r.method == "none" and r.train is not None]
    untrained = {(row.method, str(row.options)) for row in controls if row.train is None}
    for row in trained:
        same = (row.method, str(row.options)) in untrained
        # LongLoRA without training is PI without training, and the studies say so
        assert same or row.method in ("none", "longlora")
    assert len({row.name for row in study.rows}) == len(study.rows)
    for row in study.rows:
        assert sum(len(group) for group in groups(study, row)) == len(study.columns_of(row))


@pytest.mark.parametrize("name", [n for n in list_studies() if n not in ("frozen", "template")])
def test_shipped_studies_with_a_quick_version_keep_their_rows_comparable(name):
    content = yaml.safe_load((list_folder() / f"{name}.yaml").read_text())
    if "quick" not in content:
        pytest.skip("no quick version")
    quick, full = load_study(name, quick=True), load_study(name)
    assert {row.name for row in quick.rows} <= {row.name for row in full.rows}
    assert quick.train == full.train
    assert len(quick.notes) > len(full.notes)


def test_a_quick_version_is_taken_from_a_base_unless_both_choose():
    assert len(load_study("lceg-released", quick=True).notes) > len(
        load_study("lceg-released").notes
    )
    with pytest.raises(ValueError, match="Study mini-text has no block `quick`"):
        load_study("mini-text", quick=True)


def list_folder():
    from ctxbench.study.loading import FOLDER

    return FOLDER


def test_commands_are_those_a_user_would_type(tmp_path):
    study = load_study(write_study(tmp_path))
    pi, untrained = study.row("pi"), study.row("pi-untrained")
    assert str(train_command(study, pi, 1)) == (
        "ctxbench-train --recipe mini --model mini --seed 1 --output train/pi/seed-1 --method pi "
        "--option factor=4"
    )
    (group,) = groups(study, pi)
    assert str(evaluate_command(study, pi, 1, group)) == (
        "lm_eval --model ctxext --model_args pretrained=train/pi/seed-1,length=256 --tasks "
        "mini_windows_128,mini_windows_256,mini_needle_256 --samples "
        """'{"mini_needle_256": [0, 1, 2]}' --log_samples"""
    )
    assert "pretrained=mini,length=256,method=pi,factor=4 " in str(
        evaluate_command(study, untrained, None, group)
    )


def test_columns_that_cannot_share_a_run_do_not(tmp_path):
    study = copy.deepcopy(STUDY)
    needle = study["columns"]["needle"]
    study["columns"]["other_documents"] = {**needle, "documents": 4}
    study["columns"]["other_seed"] = {**needle, "metadata": {"seed": 2}}
    found = load_study(write_study(tmp_path, **study))
    names = [[column.name for column in group] for group in groups(found, found.row("pi"))]
    assert names == [
        ["perplexity_128", "perplexity_256", "needle_256"],
        ["other_documents_256"],
        ["other_seed_256"],
    ]


@pytest.mark.parametrize(
    ("given", "numbers"),
    [(None, None), (3, [0, 1, 2]), ("0:10:4", [0, 4, 8]), (":2", [0, 1]), ("2:4", [2, 3])],
)
def test_documents(tmp_path, given, numbers):
    study = load_study(change(tmp_path, "columns.needle.documents", given))
    assert document_numbers(study.columns[-1]) == numbers


def test_documents_per_length(tmp_path):
    study = copy.deepcopy(STUDY)
    study["columns"]["needle"] |= {"lengths": [128, "1k"], "documents": {128: 7, "1k": 2}}
    found = load_study(write_study(tmp_path, **study))
    assert [column.documents for column in found.columns[-2:]] == [7, 2]
    assert found.length == 1024


@pytest.mark.parametrize("name", [n for n in list_studies() if n not in ("frozen", "template")])
def test_the_report_reads_what_the_study_writes(name):
    study = load_study(name)
    written = json.loads(json.dumps(folder.describe(study)))
    protocol = read_protocol(written, "study.json")
    for row in written["rows"]:
        assert row.pop("trained") == (row["train"] is not None or row["trained_length"] is not None)
        row.pop("recipe")
    assert json.loads(json.dumps(as_json(protocol))) == written
    for one, two in zip(protocol.rows, study.rows, strict=True):
        assert (one.name, one.seeds, one.trained) == (two.name, two.seeds, two.trained)
    assert [c.family for c in protocol.columns] == [c.family for c in study.columns]


def test_one_of_version_0_1_0_is_read():
    head = next(read_archive(ROOT / "results" / "mini" / "cells.jsonl.xz"))
    protocol = read_protocol(head["study"], "study.json")
    assert "version" not in head["study"]
    row = next(row for row in protocol.rows if row.name == "pi")
    assert (row.group, row.seeds, row.trained_length, row.trained) == ("exact", (0, 1), 1024, True)
    assert protocol.budget["tokens"] == 655360


def test_a_later_version_and_damage_are_named(tmp_path):
    written = folder.describe(load_study(write_study(tmp_path)))
    with pytest.raises(ValueError, match=r"here is of version 2; this ctxbench reads 1"):
        read_protocol({**written, "version": 2}, "here")
    with pytest.raises(ValueError, match=r"here is \[\]; it must be a mapping"):
        read_protocol([], "here")
    written["columns"][1]["length"] = "long"
    with pytest.raises(ValueError, match=r"columns: length='long' is not allowed"):
        read_protocol(written, "here")


def test_places():
    assert cell_folder("pi", 1, "needle_4k") == "cells/pi/seed-1/needle_4k"
    assert training_folder("base", None) == "train/base/seed-none"


def test_a_row_whose_method_needs_training_and_has_none_is_told(tmp_path, capsys):
    study = copy.deepcopy(STUDY)
    study["rows"]["marks"] = {"label": "Marks", "class": "approximate", "method": "landmark"}
    study["rows"]["control"] |= {"method": "landmark", "train": None}
    file = write_study(tmp_path, **study)
    (said,) = untrained(load_study(file))
    assert said.startswith("Marks: method landmark needs training, and this row has none")
    assert main(["plan", file]) == 0
    assert said in capsys.readouterr().out


def test_limit_on_a_study_is_refused_with_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["study", write_study(tmp_path), "--limit", "4"]) == 2
    said = capsys.readouterr().err
    assert "--limit 4 would cut every column of a study alike" in said
    assert "set `documents`, or give --quick" in said
    assert not (tmp_path / "studies").exists()
