"""Studies of one's own: any task as a column, any method as a row, paths from where one is."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ctxbench.report.contents import gather
from ctxbench.report.layouts import LAYOUTS, own_layouts
from ctxbench.report.tables import fill
from ctxbench.study import folder
from ctxbench.study.commands import evaluate_command, train_command
from ctxbench.study.loading import load_study
from ctxbench.study.paths import environment, seen_from
from tests.study.small import ROOT, STUDY

COLOUR = """\
task: colour
tag: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{label}}}}"
doc_to_choice: [red, green]
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
ECHO = """\
task: echo_256
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{word}}}}"
generation_kwargs: {{until: ["\n"], max_gen_toks: 4, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
filter_list:
  - {{name: whole, filter: [{{function: take_first}}]}}
  - name: first
    filter: [{{function: regex, regex_pattern: '(\\w+)'}}, {{function: take_first}}]
"""
MINE = {
    "title": "My own benchmark",
    "model": "mini",
    "length": 512,
    "together": "row",
    "include_path": "tasks",
    "rows": {
        "base": {"label": "Base", "class": "frozen", "method": "none"},
        "mine": {
            "label": "Mine",
            "class": "frozen",
            "method": "my_method",
            "options": {"factor": 2.0},
        },
    },
    "columns": {
        "colour": {"kind": "colours", "task": "colour", "metric": "acc", "chance": 0.5},
        "echo": {
            "kind": "echoes",
            "task": "echo_{length}",
            "lengths": [256],
            "metric": "exact_match,first",
            "documents": 8,
        },
    },
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A user's folder: a study file, tasks with their data, a method."""
    records = [
        {"question": f"# apple {n}\n# apple", "word": str(n), "label": n % 2} for n in range(12)
    ]
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "colour.yaml").write_text(COLOUR.format(data=data))
    (tmp_path / "tasks" / "echo.yaml").write_text(ECHO.format(data=data))
    (tmp_path / "methods").mkdir()
    shutil.copy(ROOT / "examples" / "my_method.py", tmp_path / "methods")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(MINE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CTXBENCH_METHODS", "methods")
    return tmp_path


def changed(where, **columns):
    """Write the study with changes of its first column; return the file's name."""
    study = {**MINE, "columns": {"colour": {**MINE["columns"]["colour"], **columns}}}
    (where / "changed.yaml").write_text(yaml.safe_dump(study))
    return str(where / "changed.yaml")


def test_own_tasks_are_columns_and_their_folder_goes_to_lm_eval(mine):
    study = load_study("mine.yaml")
    assert [column.tasks for column in study.columns] == [("colour",), ("echo_256",)]
    assert study.include_path == str(mine / "tasks")
    moved = seen_from(study, mine / "studies" / "mine")
    command = str(evaluate_command(moved, moved.row("mine"), None, moved.columns[:1]))
    assert "--tasks colour --include_path ../../tasks " in command
    assert "method=my_method,factor=2" in command
    assert str(mine) not in command


def test_a_tag_of_own_tasks_is_a_column_too(mine):
    assert load_study(changed(mine, task="mine")).columns[0].tasks == ("mine",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "accuracy"}, r"task colour has no metric 'accuracy'.* It has: acc\. Correct"),
        (
            {"task": "color"},
            r"no task 'color'; did you mean colour.*or the folder of your own in inc",
        ),
    ],
)
def test_a_misspelt_task_or_metric_is_told_before_anything_runs(mine, change, said):
    with pytest.raises(ValueError, match=said):
        load_study(changed(mine, **change))


def test_a_task_file_that_is_no_yaml_is_named(mine):
    (mine / "tasks" / "bad.yaml").write_text('task: "unclosed')
    with pytest.raises(ValueError, match=r"bad\.yaml cannot be read: .*quoted scalar.* Correct it"):
        load_study("mine.yaml")


def test_a_folder_that_is_none_is_told(mine):
    (mine / "bad.yaml").write_text(yaml.safe_dump({**MINE, "include_path": "nowhere"}))
    with pytest.raises(
        ValueError, match=r"include_path='nowhere' is not allowed; it must be a folder"
    ):
        load_study("bad.yaml")


def test_edited_task_files_do_not_go_on_in_the_same_folder(mine):
    root = mine / "out"
    root.mkdir()
    folder.prepare(load_study("mine.yaml"), root)
    folder.prepare(load_study("mine.yaml"), root)
    task = mine / "tasks" / "colour.yaml"
    task.write_text(task.read_text().replace("red", "blue"))
    with pytest.raises(ValueError, match=r"begun with other settings: task_files is"):
        folder.prepare(load_study("mine.yaml"), root)


def test_relative_paths_are_those_from_where_the_command_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "text").mkdir()
    config = ROOT / "ctxbench" / "_assets" / "mini" / "config.json"
    shutil.copy(config, tmp_path / "model")
    study = {**STUDY, "model": "model", "train": {"recipe": "mini", "data": ["text:seq=1@2"]}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study))
    moved = seen_from(load_study("s.yaml"), tmp_path / "studies" / "s")
    assert " --data ../../text:seq=1@2 " in str(train_command(moved, moved.row("pi"), 0))
    assert "pretrained=../../model," in str(
        evaluate_command(moved, moved.row("base"), None, moved.columns[:1])
    )
    monkeypatch.setenv("CTXBENCH_DATA", os.pathsep.join(["data", "/more"]))
    assert environment()["CTXBENCH_DATA"] == os.pathsep.join([str(tmp_path / "data"), "/more"])


@pytest.mark.slow
def test_a_study_of_own_tasks_rows_and_title_ends_in_a_report(mine):
    done = subprocess.run(
        [sys.executable, "-m", "ctxbench.cli", "study", "mine.yaml", "--output", "out"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    text = Path("out/report/report.md").read_text()
    assert text.startswith("# My own benchmark\n")
    contents = gather(Path("out"))
    own = own_layouts(contents.study)
    assert [layout.title for layout in own] == ["Colours", "Echoes by length"]
    colours, echoes = (fill(layout, contents.numbers)[0] for layout in own)
    assert [head for _, head in colours.heads] == ["Len", "colour"]
    assert [line.label for line in echoes.lines] == ["Base", "Mine"]
    assert echoes.lines[0].entries[1].number.estimate.documents == 8
    assert len(contents.sections) == len(LAYOUTS) + 2
    assert "## Colours" in text
    assert "## Echoes by length" in text
    assert str(mine) not in "".join(f.read_text() for f in Path("out/cells").rglob("cell.json"))
