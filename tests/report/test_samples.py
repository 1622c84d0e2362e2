"""What tasks say of their samples, and that old files are read as if theirs had said it."""

import json
from dataclasses import replace

import pytest
import yaml

from ctxbench.core.lengths import task_family
from ctxbench.core.protocol import Column, read_protocol
from ctxbench.core.samples import KEY, SampleFormat, declared_format
from ctxbench.core.settings import read_settings
from ctxbench.report.archive import NAME, read_archive
from ctxbench.report.compact import compact
from ctxbench.report.heatmap import heat_maps
from ctxbench.report.result_files import find_runs, result_folders
from ctxbench.report.samples import read_leaves, read_samples
from tests.report.synthetic import DATE
from tests.study.small import ROOT

BASES = sorted(
    file
    for file in (ROOT / "ctxbench" / "tasks").glob("*/_*.yaml")
    if "metric_list" in file.read_text()
)


def read_base(file):
    """Return a task's YAML; functions stay names."""
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("!function", lambda found, node: node.value)
    return yaml.load(file.read_text(), loader)


@pytest.mark.parametrize("file", BASES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_task_says_how_its_samples_are_read(file):
    content = read_base(file)
    form = read_settings(SampleFormat, content["metadata"][KEY], file.name)
    metrics = {entry["metric"] for entry in content["metric_list"]}
    assert {*form.percent, *form.losses} <= metrics
    asks_losses = "loglikelihood" in content["output_type"] and "multiquery" not in file.stem
    assert bool(form.losses) == asks_losses


BASE_OF = {
    "mini_needle": "mini/_needle",
    "mini_ppl": "mini/_ppl",
    "mini_multiquery": "mini/_multiquery",
    "mini_windows": "perplexity/_overlap",
    "mini_manyshot_16shot": "manyshot/_labels",
    "mini_manyshot_128shot": "manyshot/_labels",
}


def test_old_results_are_read_as_if_their_tasks_had_said_it():
    """Every cell of the stored study, which ctxbench 0.1.0 measured."""
    archive = ROOT / "results" / "mini" / NAME
    head = next(read_archive(archive))
    columns = {c.name: c for c in read_protocol(head["study"], NAME).columns}
    seen = set()
    for folder in result_folders(archive):
        for run in folder.runs():
            column = columns[folder.path.name]
            (task,) = run.samples
            base = read_base(ROOT / "ctxbench" / "tasks" / f"{BASE_OF[task_family(task)]}.yaml")
            said = {"configs": {task: {"metadata": base["metadata"]}}}
            new = replace(run, content={**run.content, **said})
            assert declared_format(new.content, task)
            assert read_leaves(run, column) == read_leaves(new, column)
            seen.add(task_family(task))
    assert seen == set(BASE_OF)


def write(folder, values, said=None, task="theirs_4k", metric="acc", **result):
    """Write a run of another's task."""
    configs = {} if said is None else {task: {"metadata": {KEY: said}}}
    content = {"results": {task: result}, "configs": configs}
    (folder / f"results_{DATE}.json").write_text(json.dumps(content))
    lines = [
        {"doc_id": n, "doc": {"book": n // 2, "at": n / 10, "n": 4096, "prompt": "x" * 300},
         "metrics": [metric], metric: value}
        for n, value in enumerate(values)
    ]  # fmt: skip
    (folder / f"samples_{task}_{DATE}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def column(metric="acc", task="theirs_4k"):
    return Column(name="c", kind="own", tasks=(task,), metric=metric, higher_is_better=True)


def test_what_a_task_says_is_followed_also_in_an_archive(tmp_path):
    said = {"unit": "book", "depth": "at", "length": "n", "percent": ["acc"]}
    write(tmp_path, [0.5, 50, 100], said)
    kept, _ = compact([tmp_path], tmp_path / "kept")
    for source in (tmp_path, kept):
        (leaf,) = read_leaves(find_runs([source])[0], column()).values()
        assert [s.total for s in leaf.samples] == [0.005, 0.5, 1.0]
        assert [s.unit for s in leaf.samples] == ["theirs 0", "theirs 0", "theirs 1"]
        (heat,) = heat_maps(find_runs([source]), "acc")
        assert heat.scores == {(4096, 0): [0.005], (4096, 10): [0.5], (4096, 20): [1.0]}


@pytest.mark.parametrize(
    ("values", "said", "message"),
    [
        ([0, 1, 1.5], {}, "theirs_4k has the acc 1.5, which is from 0 to 1"),
        ([0, -1], {"percent": ["acc"]}, "acc -1, which is from 0 to 100"),
        ([[1, 2]], {}, r"acc of a sample of theirs is \[1, 2\], no number"),
        ([1], {"units": "book"}, "sample_format of theirs_4k: 'units' is not a setting; did you"),
        ([1], {"losses": {"acc": "bits"}}, "is not allowed"),
        ([1], {"unit": "page"}, r"theirs_4k cannot be read as .*KeyError: 'page'"),
    ],
)
def test_what_does_not_fit_what_was_said_is_an_error(tmp_path, values, said, message):
    (run,) = find_runs([write(tmp_path, values, said)])
    with pytest.raises(ValueError, match=message):
        read_samples(run, "theirs_4k", "acc")


def test_lost_samples_are_noticed_and_null_is_no_score(tmp_path):
    (run,) = find_runs([write(tmp_path, [1, None, 0], sample_len=3)])
    assert [s.total for s in read_samples(run, "theirs_4k", "acc").samples] == [1, 0]
    (run,) = find_runs([write(tmp_path, [1, 0], sample_len=3)])
    with pytest.raises(ValueError, match="2 of the 3 samples of theirs_4k are there"):
        read_samples(run, "theirs_4k", "acc")
