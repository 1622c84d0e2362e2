"""Archives of results: the same reports, the same bytes, nothing lost in silence."""

import hashlib
import json
import lzma
import shutil

import pytest

from ctxbench.report.archive import NAME, read_archive, unpack
from ctxbench.report.compact import compact
from ctxbench.report.study_results import load_study
from ctxbench.report.write import write_report
from tests.report.synthetic import mini_plan, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    plan = mini_plan(lengths=(128, 256), seeds=(0,))
    plan["rows"] = [row for row in plan["rows"] if row["name"] in ("base", "pi")]
    folder = tmp_path_factory.mktemp("archive") / "study"
    write_study(folder, plan, samples=4, failed=[("pi", "ppl_128")], missing=[("pi", "ppl_256")])
    (folder / "train" / "pi" / "seed-0").mkdir(parents=True)
    (folder / "train" / "pi" / "seed-0" / "train.yaml").write_text("# typed\nlr: 0.5\n")
    return folder


@pytest.fixture(scope="module")
def archive(study):
    return compact([study], study.parent / "kept")[0]


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_report_is_the_same_to_the_byte(study, archive, tmp_path):
    write_report(study, tmp_path / "one", figures=False)
    write_report(archive.parent, tmp_path / "two", figures=False)
    write_report(archive, tmp_path / "three", figures=False)
    one = files(tmp_path / "one")
    assert len(one) > 20
    assert b"out of memory" in one["cells.csv"]
    assert b",0.5," in one["tables/training.csv"]
    assert one == files(tmp_path / "two") == files(tmp_path / "three")


def test_equal_results_give_equal_bytes_and_files_come_back(study, archive, tmp_path):
    unpack(archive, tmp_path / "files")
    assert (tmp_path / "files/train/pi/seed-0/train.yaml").read_text() == "# typed\nlr: 0.5\n"
    assert files(tmp_path / "files").keys() == files(study).keys()
    for source in (study, archive, archive.parent, tmp_path / "files"):
        again, runs = compact([source], tmp_path / source.name)
        assert again.read_bytes() == archive.read_bytes()
        assert runs == len(list(study.glob("cells/*/*/*/results_*")))


def test_cells_of_one_run_are_kept_apart_and_beside_the_originals(study, tmp_path):
    """All cells of a study carry the same date in their files' names."""
    loose = tmp_path / "in"
    shutil.copytree(study / "cells" / "base" / "seed-none", loose)
    before = files(loose)
    kept, runs = compact([loose / "needle_256", loose / "ppl_256"], loose)
    _, *folders = read_archive(kept)
    assert runs == len(folders) == 2
    tasks = [task for f in folders for run in f["runs"] for task in run["results"]["results"]]
    assert tasks == ["mini_needle_256", "mini_ppl_256"]
    assert {name: text for name, text in files(loose).items() if name != NAME} == before


def test_another_archive_is_not_overwritten(study, archive, tmp_path):
    shutil.copy(archive, tmp_path / NAME)
    compact([study], tmp_path)
    with pytest.raises(ValueError, match=r"holds other results, which would be lost\. Give"):
        compact([study / "cells" / "base"], tmp_path)
    assert (tmp_path / NAME).read_bytes() == archive.read_bytes()
    with pytest.raises(ValueError, match=r"one of them a study"):
        compact([study, study / "cells"], tmp_path / "other")


# ---------------------------------------------------------------------- damage


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_archive_is_named_with_the_line(archive, tmp_path, share):
    content = archive.read_bytes()
    (tmp_path / NAME).write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        ValueError, match=rf"{NAME} line \d+ is (damaged|not a JSON).*Fetch the archive"
    ):
        load_study(tmp_path)


def test_a_changed_byte_is_noticed_wherever_it_is(archive, tmp_path):
    content = archive.read_bytes()
    whole = hashlib.sha256(content).hexdigest()
    for place in range(0, len(content), 97):
        changed = bytearray(content)
        changed[place] ^= 1
        (tmp_path / NAME).write_bytes(changed)
        with pytest.raises(ValueError, match=r"line \d+ is (damaged|not a JSON)"):
            list(read_archive(tmp_path / NAME))
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == whole


def rewritten(archive, path, edit):
    lines = lzma.decompress(archive.read_bytes()).decode().splitlines()
    path.write_bytes(lzma.compress("".join(f"{line}\n" for line in edit(lines)).encode()))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda lines: [*lines[:4], *lines[5:]], r"does not say that there are \d+ folders"),
        (lambda lines: lines[:-1], r"does not say that there are \d+ folders"),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], r"line 4 is damaged: .* there twice"),
        (lambda lines: [lines[0], lines[1][:-9], *lines[2:]], r"line 2 is not a JSON object \("),
        (lambda lines: [lines[0].replace("results 1", "results 2"), *lines[1:]], r"not 'ctxbench"),
        (lambda lines: ["[1]"], r"line 1 is not a JSON object"),
    ],
)
def test_lines_that_are_lost_or_changed_are_noticed(archive, tmp_path, edit, said):
    rewritten(archive, tmp_path / NAME, edit)
    with pytest.raises(ValueError, match=said):
        load_study(tmp_path)


def test_an_archive_writes_nothing_outside_its_folder(archive, tmp_path):
    rewritten(archive, tmp_path / NAME, lambda lines: [
        json.dumps({"format": "ctxbench results 1"}),
        json.dumps({"folder": "a/../../b", "cell": {"row": "x"}, "runs": []}),
        json.dumps({"folders": 1}),
    ])  # fmt: skip
    with pytest.raises(ValueError, match=r"outside .*Nothing was written"):
        unpack(tmp_path / NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="is not empty"):
        unpack(archive, tmp_path)
