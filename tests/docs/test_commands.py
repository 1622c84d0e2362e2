"""Every command on our pages is one that exists; those that need no hub and no GPU run."""

import argparse
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

import ctxbench
from ctxbench import listing
from ctxbench.cli import make_parser
from ctxbench.train.cli import parse_arguments
from ctxbench.train.recipes import list_recipes, paper_rows
from tests.docs.pages import PAGES, ROOT, commands, fences, inline, name

KNOWN = {name for family in listing.task_names().values() for name in family}
STUDIES = {file.stem for file in (ROOT / "ctxbench" / "study" / "studies").glob("*.yaml")}
PLACEHOLDERS = {"METHOD", "M", "MODEL", "..."}
HARNESS = {
    *("--model", "--model_args", "--tasks", "--metadata", "--include_path", "--output_path"),
    *("--log_samples", "--batch_size", "--limit", "--apply_chat_template", "--gen_kwargs"),
}
ELSEWHERE = {"pip", "export", "pre-commit", "sphinx-build", "uvx", "git"}
"""Programs that are not ours; the install is what `.ci/run` begins with."""


def check(words: list[str]) -> None:
    """Fail unless a command names programs, options, methods, tasks and files that exist."""
    program, rest = words[0], words[1:]
    if "..." in rest:
        return
    if program in ("torchrun", "accelerate"):
        for flag in [word for word in rest if word.endswith("gpu8.yaml")]:
            assert (ROOT / flag).is_file()
        at = rest.index("-m")
        check(["python", *rest[at:]])
    elif program == "python":
        check_python(rest)
    elif program == "lm_eval":
        check_harness(rest)
    elif program == "ctxbench-train":
        parse_arguments(rest)
    elif program == "ctxbench" and rest[:1] == ["lm-eval"]:
        check_harness(rest[1:])
    elif program == "ctxbench":
        given = make_parser().parse_args(rest)
        if rest[0] in ("study", "plan"):
            assert given.name in STUDIES, given.name
    elif program == "pytest":
        assert all((ROOT / word).exists() for word in rest if "/" in word), words
    elif program.startswith(".ci/"):
        assert (ROOT / program).is_file()
    else:
        assert program in ELSEWHERE, f"what is {shlex.join(words)}?"


def check_python(words: list[str]) -> None:
    """Fail unless a module or file to run exists; ours are checked further."""
    if words[0] != "-m":
        assert (ROOT / words[0]).is_file()
        return
    ours = {"ctxbench.train": "ctxbench-train", "lm_eval": "lm_eval", "ctxbench.cli": "ctxbench"}
    if words[1] in ours:
        check([ours[words[1]], *words[2:]])
    else:
        assert importlib.util.find_spec(words[1]), words


def check_harness(words: list[str]) -> None:
    """Fail unless lm_eval's model, its arguments, tasks and metadata exist."""
    from ctxbench.models.arguments import split_arguments

    parser = argparse.ArgumentParser(exit_on_error=False)
    for flag in HARNESS:
        switch = flag in ("--log_samples", "--apply_chat_template")
        parser.add_argument(flag, **({"action": "store_true"} if switch else {}))
    given = parser.parse_args([word for word in words if word != "run"])
    assert given.model in (None, "ctxext", "hf")
    pairs = [part.split("=", 1) for part in (given.model_args or "").split(",") if "=" in part]
    arguments = dict(pairs)
    method = arguments.pop("method", None)
    if given.model == "ctxext" and method not in PLACEHOLDERS:
        for own in ("length", "stride", "cache", "dtype", "prefill_chunk", "pretrained"):
            arguments.pop(own, None)
        asked, _ = split_arguments(object(), method, arguments)
        statements = ("adopt", "override", "trained_length", "original_length")
        ctxbench.get_method(method, **{k: v for k, v in asked.items() if k not in statements})
    folder = ROOT / given.include_path if given.include_path else None
    own_tasks = {file.stem for file in folder.rglob("*.yaml")} if folder else set()
    for task in (given.tasks or "").split(","):
        assert task in KNOWN | own_tasks | PLACEHOLDERS | {""}, task
    assert isinstance(json.loads(given.metadata or "{}"), dict)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page, tmp_path, monkeypatch):
    monkeypatch.setenv("CTXBENCH_METHODS", str(ROOT / "examples"))
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        check(words)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_in_the_text_exist(page, monkeypatch):
    monkeypatch.setenv("CTXBENCH_METHODS", str(ROOT / "examples"))
    recipes = {*list_recipes(), *paper_rows()}
    methods = {*ctxbench.list_methods(), *ctxbench.list_presets()} | PLACEHOLDERS | {"NAME", "hf"}
    for code in inline(page):
        for recipe in re.findall(r"--recipe ([\w-]+)(?:\s|$)", code):
            assert recipe in recipes | {"NAME"}, code
        for row in re.findall(r"^(?:llama2-7b|phi2)-[\w-]+$", code):
            assert row in recipes, code
        for method in re.findall(r"\bmethod=([\w-]+)", code):
            assert method in methods, code
        for tasks in re.findall(r"--tasks ([\w,-]+)", code):
            assert set(tasks.split(",")) <= KNOWN, code
        for public in re.findall(r"^ctxbench\.([a-z_]+)$", code):
            assert hasattr(ctxbench, public) or (ROOT / "ctxbench" / public).exists(), code


@pytest.mark.parametrize(
    "line",
    [
        "lm_eval --model ctxext --model_args pretrained=mini,method=yran --tasks ruler_32k",
        "lm_eval --model ctxext --model_args pretrained=mini,method=yarn,fctor=2 --tasks ruler_32k",
        "lm_eval --model ctxext --model_args pretrained=mini --tasks ruler_33k",
        "lm_eval --model ctxext --taks ruler_32k",
        "ctxbench-train --recipe lecg --model m --data d --output o",
        "ctxbench-train --recipe lceg --model m --data d --output o --lr-warmup 3",
        "ctxbench examine mini",
        "ctxbench study mimi",
        "python benchmarks/nothing.py",
        "frobnicate",
    ],
)
def test_a_wrong_command_is_noticed(line):
    with pytest.raises((ValueError, AssertionError, SystemExit, FileNotFoundError)):
        check(shlex.split(line))


@pytest.mark.parametrize("page", [page for page in PAGES if fences(page, "python")], ids=name)
def test_python_examples_run(page, tmp_path, monkeypatch):
    if page.name == "CONTRIBUTING.md":
        pytest.skip("its examples are files, and run in tests/docs/test_examples.py")
    monkeypatch.chdir(tmp_path)
    shared: dict = {}
    for text in fences(page, "python"):
        exec(compile(text, name(page), "exec"), shared)


LOCAL = ("mini", "mini-yarn-1k", "mini-my-method")
"""Models that a page's commands have without the hub: bundled, or made by a command before."""


def runs_here(words: list[str]) -> bool:
    """Return whether a command needs neither hub, GPU nor data, and takes minutes at most."""
    program, rest = words[0], words[1:]
    if program == "lm_eval":
        model = " ".join(rest).partition("pretrained=")[2].replace(",", " ").split(" ")[0]
        return model in LOCAL
    if program == "ctxbench-train":
        return "mini" in rest
    if program == "ctxbench":
        return rest[0] in ("ls", "tasks-path", "validate")
    return words[:1] == ["export"]


SHELL = """
lm_eval() { "$PYTHON" -m lm_eval "$@" --limit 4; }
ctxbench() { "$PYTHON" -m ctxbench.cli "$@"; }
ctxbench-train() { "$PYTHON" -m ctxbench.train "$@" --tokens 65536; }
set -eux
"""
"""Our commands, of this Python; four documents a task and 16 updates show that a command runs."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(map(runs_here, commands(page)))], ids=name
)
def test_local_commands_run(page, tmp_path):
    """In one shell, in order, in an empty folder with the examples."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "book.txt").write_text("The quick brown fox jumps over the lazy dog. " * 2000)
    before = [words for other in PAGES[: PAGES.index(page)] for words in commands(other)]
    lines = [
        shlex.join(words)
        for words in commands(page)
        if runs_here(words) and not (words in before and "pretrained=mini," in " ".join(words))
    ]
    done = subprocess.run(
        ["bash", "-c", "\n".join([SHELL, *lines])],
        cwd=tmp_path, env={**os.environ, "PYTHON": sys.executable, "HF_HUB_OFFLINE": "1",
             "CTXBENCH_TASKS_ONLY": "1"},
        capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
