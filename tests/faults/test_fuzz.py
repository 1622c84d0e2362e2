"""Fuzzers: whatever stands in files and arguments, a command ends in a sentence or does its work.

Each says how many cases it tried, how many were refused and how many went on; `pytest -m slow
tests/faults/test_fuzz.py -rP` shows it. `CTXBENCH_FUZZ=20` tries twenty times as many, drawn anew.
"""

import json
import os
import shutil
from collections import Counter

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ctxbench
from ctxbench.cli import main, make_parser
from ctxbench.core.assets import resolve_model
from ctxbench.models.ctxext import CtxExt
from ctxbench.study.loading import load_study
from ctxbench.train.config import TrainConfig, make_config
from tests.faults.hostile import TEXTS, VALUES, as_json, changed, check_sentence, damaged
from tests.report.synthetic import mini_plan, write_study
from tests.study.small import STUDY

pytestmark = pytest.mark.slow

MORE = int(os.environ.get("CTXBENCH_FUZZ", "0"))


def fuzz(examples):
    return settings(
        max_examples=examples * (MORE or 1),
        derandomize=not MORE,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv("CTXBENCH_TRACEBACK", "1")  # `main` then lets errors through
    monkeypatch.chdir(tmp_path)


def outcome(action, *allowed):
    """Do something; return `went on` or `refused`, and fail on an error that is no sentence."""
    try:
        action()
    except allowed:
        return "refused"
    except (Exception, SystemExit) as error:
        check_sentence(error)
        return "refused"
    return "went on"


def run(*words):
    """Return what a command line came to; argparse's own errors are sentences."""
    return outcome(lambda: main([*map(str, words)]), SystemExit)


# ------------------------------------------------------------- folders of results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A small study of every kind of column, and its files by name."""
    plan = mini_plan(lengths=(128, 256), seeds=(0,))
    kinds = {column["kind"]: column for column in plan["columns"]}
    needles = [column for column in plan["columns"] if column["kind"] == "needle"]
    plan["columns"] = [*needles, *(c for kind, c in kinds.items() if kind != "needle")]
    plan["rows"] = plan["rows"][:2]
    folder = write_study(tmp_path_factory.mktemp("results") / "s", plan, samples=4)
    return folder, sorted(p.relative_to(folder) for p in folder.rglob("*.json*"))


def test_folders_of_results(results, tmp_path, capsys):
    source, names = results
    counts: Counter = Counter()
    work = tmp_path / "s"

    @fuzz(150)
    @given(st.sampled_from(names), st.data())
    def fuzzer(name, data):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(source, work)
        content = (source / name).read_bytes()
        if data.draw(st.integers(0, 3)) == 0:
            (work / name).write_bytes(data.draw(damaged(content)))
        elif name.suffix == ".jsonl":
            lines = [json.loads(line) for line in content.splitlines()]
            lines = data.draw(changed(lines))
            every = lines if isinstance(lines, list) else [lines]
            (work / name).write_bytes(b"".join(as_json(line) + b"\n" for line in every))
        else:
            (work / name).write_bytes(as_json(data.draw(changed(json.loads(content)))))
        before = set(tmp_path.iterdir())
        counts[run("report", work, "--no-figures", "--out", tmp_path / "out")] += 1
        heat = ("report", "heatmap", work, "--no-png", "--out", tmp_path / "out")
        counts["heatmap " + run(*heat)] += 1
        archive = tmp_path / "out" / "cells.jsonl.xz"
        archive.unlink(missing_ok=True)
        counts["compact " + run("report", "compact", work, "--out", tmp_path / "out")] += 1
        if archive.exists():
            shutil.rmtree(tmp_path / "back", ignore_errors=True)
            counts["unpack " + run("report", "unpack", archive, "--out", tmp_path / "back")] += 1
        assert set(tmp_path.iterdir()) <= {*before, tmp_path / "out", tmp_path / "back"}

    fuzzer()
    capsys.readouterr()
    print(f"folders of results: {dict(counts)}")


# ------------------------------------------------------------------ checkpoints


def test_configs_of_checkpoints(tmp_path, capsys):
    counts: Counter = Counter()
    work = tmp_path / "checkpoint"
    shutil.copytree(resolve_model("mini"), work)
    model, tokenizer = ctxbench.load_model("mini", "yarn", length=1024)
    ctxbench.save_model(model, tokenizer, tmp_path / "yarn")
    ours = json.loads((tmp_path / "yarn" / "config.json").read_text())
    files = {
        name: (work / name).read_bytes()
        for name in ("config.json", "generation_config.json", "tokenizer_config.json")
    }

    @fuzz(120)
    @given(st.sampled_from([*files, "config.json", "config.json"]), st.booleans(), st.data())
    def fuzzer(name, with_record, data):
        for file, content in files.items():
            (work / file).write_bytes(content)
        tree = ours if with_record and name == "config.json" else json.loads(files[name])
        if data.draw(st.integers(0, 9)) == 0:
            (work / name).write_bytes(data.draw(damaged(files[name])))
        else:
            (work / name).write_bytes(as_json(data.draw(changed(tree, 2))))
        counts["load " + outcome(lambda: ctxbench.load_model(work))] += 1
        counts["doctor " + run("doctor", work)] += 1

    fuzzer()
    capsys.readouterr()
    print(f"configs: {dict(counts)}")


# ---------------------------------------------------------------------- studies


def test_study_files(tmp_path, capsys):
    counts: Counter = Counter()
    file = tmp_path / "s.yaml"
    base = {**STUDY, "notes": ["x"], "length": 256, "quick": {"seeds": [0]}, "model_args": {}}

    @fuzz(250)
    @given(changed(base), st.integers(0, 9), st.data())
    def fuzzer(tree, kind, data):
        if kind == 0:
            file.write_bytes(data.draw(damaged(yaml.safe_dump(base).encode())))
        else:
            file.write_text(json.dumps(tree))  # of YAML, JSON is a part
        counts["load " + outcome(lambda: load_study(str(file)))] += 1
        counts["plan " + run("plan", file, *(["--quick"] if kind == 1 else []))] += 1

    fuzzer()
    capsys.readouterr()
    print(f"study files: {dict(counts)}")


# --------------------------------------------------------------------- training


def test_settings_of_a_training(tmp_path, capsys):
    counts: Counter = Counter()
    fields = sorted(TrainConfig.__dataclass_fields__)

    @fuzz(1500)
    @given(st.dictionaries(st.sampled_from([*fields, "x"]), VALUES, max_size=3))
    def fuzzer(values):
        given_values = {"output": str(tmp_path / "out"), "data": ["stdlib"], **values}
        counts[outcome(lambda: make_config("mini", given_values))] += 1

    fuzzer()
    print(f"settings of a training: {dict(counts)}")


# -------------------------------------------------------------------- arguments


def options_of(parser, words=()):
    """Yield every command of a parser with its options."""
    found = [option for action in parser._actions for option in action.option_strings]
    yield words, found
    for action in parser._actions:
        if action.choices and hasattr(action.choices, "items"):
            for name, inner in action.choices.items():
                yield from options_of(inner, (*words, name))


COMMANDS = [
    (words, options) for words, options in options_of(make_parser())
    if words and words[0] != "lm-eval" and words != ("data", "fetch")
]  # fmt: skip


def test_arguments(tmp_path, capsys, monkeypatch):
    counts: Counter = Counter()
    never = {"study", "validate"}  # a mistake of theirs would run for minutes

    @fuzz(500)
    @given(st.sampled_from(COMMANDS), st.data())
    def fuzzer(command, data):
        words, options = command
        value = st.one_of(
            st.sampled_from([t for t in TEXTS if not {*t} & {"\x00", "\ud800"}]),
            st.text(st.characters(codec="utf-8"), max_size=9),
        )
        word = st.one_of(st.sampled_from(options), value)
        rest = data.draw(st.lists(word, max_size=5))
        names = {"mini", "none", "yarn", "~", "*.py", ".."} if words[0] in never else set()
        rest = [each for each in rest if each not in names]
        counts[run(*words, *rest)] += 1

    fuzzer()
    capsys.readouterr()
    print(f"arguments: {dict(counts)} over {len(COMMANDS)} commands")


def test_arguments_of_the_model(capsys):
    counts: Counter = Counter()
    names = ("method", "length", "dtype", "stride", "cache", "prefill_chunk", "batch_size",
             "max_batch_size", "factor", "truncation", "adopt", "override", "peft", "revision",
             "attn_implementation", "trained_length", "add_bos_token", "x")  # fmt: skip

    @fuzz(250)
    @given(st.dictionaries(st.sampled_from(names), VALUES, min_size=1, max_size=2))
    def fuzzer(values):
        given_values = {"method": "yarn", "length": 512, **values}
        counts[outcome(lambda: CtxExt("mini", **given_values))] += 1

    fuzzer()
    capsys.readouterr()
    print(f"arguments of the model: {dict(counts)}")
