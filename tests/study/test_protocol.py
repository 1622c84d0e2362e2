"""study.json: what the study writes is what the report reads, of this version and of 0.1.0's."""

import json

import pytest

from ctxbench.core.protocol import as_json, cell_folder, read_protocol, training_folder
from ctxbench.report.archive import read_archive
from ctxbench.study import folder
from ctxbench.study.loading import list_studies, load_study
from tests.study.small import ROOT, write_study


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
