"""Task files are made at first use: whole, by several processes at once, at any length."""

import os
import re
import subprocess
import sys
from importlib import import_module

import pytest
import yaml
from lm_eval.tasks.manager import TaskManager

from ctxbench.core.assets import PACKAGE
from ctxbench.core.lengths import length_name, parse_length
from ctxbench.tasks import leaf_files
from ctxbench.tasks.leaf_files import FAMILIES, constants_of, is_task, tasks_path, unlisted

PRINT = "from ctxbench.tasks.leaf_files import tasks_path; print(tasks_path())"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXBENCH_CACHE", str(tmp_path / "cache"))
    leaf_files._folder.cache_clear()
    yield tmp_path / "cache"
    leaf_files._folder.cache_clear()


def run(code: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True
    )


def manager(**metadata) -> TaskManager:
    return TaskManager(
        include_path=str(tasks_path()), include_defaults=False, metadata=metadata or None
    )


def test_every_file_includes_a_hand_written_one_that_exists(cache):
    assert cache in tasks_path().parents
    files = list(tasks_path().rglob("*.yaml"))
    assert len(files) == sum(map(len, leaf_files.all_leaves().values())) > 500
    for file in files:
        content = yaml.safe_load(file.read_text())
        assert content.get("group", content["task"]) == file.stem
        assert "group" in content or os.path.isfile(content["include"])
    assert set(manager().all_tasks) == {file.stem for file in files}


def test_function_paths_of_earlier_task_files_are_found():
    """A user's own file may name them; a family's `build` is its `dataset` now."""
    base_files = PACKAGE.glob("tasks/*/_*.yaml")
    text = "".join(file.read_text() for file in base_files)
    paths = set(re.findall(r"!function (ctxbench\.tasks\.\w+)\.dataset\.(\w+)", text))
    assert {path.rpartition(".")[2] for path, _ in paths} == set(FAMILIES)
    for path, name in paths:
        found = [import_module(f"{path}.{module}") for module in ("build", "dataset")]
        assert getattr(found[0], name) is getattr(found[1], name)
    with pytest.raises(AttributeError, match="nothing"):
        _ = found[0].nothing


def test_every_family_says_what_it_measures(cache):
    for family in FAMILIES:
        assert (tasks_path() / family / "README.md").read_text().startswith("# ")


def test_processes_make_one_folder_together(cache):
    at_once = [
        subprocess.Popen([sys.executable, "-c", PRINT], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    printed = {process.communicate()[0].strip() for process in at_once}
    assert [process.returncode for process in at_once] == [0] * 4
    (folder,) = printed
    assert os.listdir(cache / "tasks") == [os.path.basename(folder)]  # nothing is left beside it


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest"])
def test_a_damaged_folder_is_made_anew(cache, damage):
    folder = tasks_path()
    file = folder / "mini" / "mini_needle_1k.yaml"
    before = file.read_bytes()
    if damage == "cut":
        file.write_bytes(before[:40])
    elif damage == "gone":
        file.unlink()
    else:
        (folder / "manifest.json").write_text("[")
    leaf_files._folder.cache_clear()
    assert tasks_path() == folder
    assert file.read_bytes() == before
    assert os.listdir(cache / "tasks") == [folder.name]


def test_without_a_cache_the_folder_goes_with_the_process(tmp_path):
    (tmp_path / "cache").write_text("no folder")
    code = f"{PRINT}\nfrom lm_eval.tasks import TaskManager\n"
    code += "m = TaskManager(include_path=str(tasks_path()), include_defaults=False)\n"
    code += "print('found', 'ruler_4k_vt' in m.all_tasks)"
    done = run(code, CTXBENCH_CACHE=str(tmp_path / "cache"))
    folder, found = done.stdout.splitlines()
    assert found == "found True", done.stderr
    assert "Set CTXBENCH_CACHE" in done.stderr
    assert not os.path.exists(folder)


def test_making_them_loads_no_torch(cache):
    done = run(f"{PRINT}\nimport sys\nprint({{'torch', 'transformers'}} & set(sys.modules))")
    assert done.stdout.splitlines()[1:] == ["set()"], done.stderr


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("ruler_24k_vt", 24576),
        ("ruler_1m_niah_single_2", 1024**2),
        ("niah_256k", 262144),
        ("passkey_3000", 3000),
        ("pg19_ppl_sliding_24k", 24576),
        ("longbench_8k_qasper", 8192),
        ("mini_needle_hard_768", 768),
    ],
)
def test_a_length_that_is_not_listed_is_found(cache, name, tokens):
    tasks = manager()
    assert name not in tasks.all_tasks
    assert tasks.match_tasks([name]) == [name]
    assert tasks.task_index[name].cfg["dataset_kwargs"]["ctx_length"] == tokens
    assert constants_of(name)[name]["ctx_length"] == tokens
    assert tasks.all_tasks == sorted(tasks.all_tasks)


def test_groups_patterns_and_shots_too(cache):
    tasks = manager()
    assert "ruler_24k" in tasks.match_tasks(["ruler_24k"])
    assert {"ruler_24k_qa", "ruler_24k_vt"} < set(tasks.all_tasks)
    assert len(tasks.match_tasks(["longbench_64k*"])) == 21 + 13 + 1 + 6
    assert tasks.match_tasks(["trec_fine_30shot_lceg"]) == ["trec_fine_30shot_lceg"]
    assert is_task("ruler_24k")
    assert len(constants_of("ruler_24k")) == 13


@pytest.mark.parametrize("name", ["ruler_24k_nothing", "nothing_24k", "ruler_0k", "ruler", "", "*"])
def test_other_names_stay_unknown(cache, name):
    assert not unlisted(name)
    if name != "*":
        assert manager().match_tasks([name]) == []
        assert not is_task(name)


def test_an_unlisted_length_runs(cache):
    import lm_eval

    found = lm_eval.simple_evaluate(
        model="ctxext",
        model_args={"pretrained": "mini", "method": "dynamic_ntk", "length": 768},
        tasks=["mini_needle_768"],
        task_manager=manager(pretrained="mini", samples=2),
        bootstrap_iters=0,
    )
    assert found is not None
    assert set(found["results"]) == {"mini_needle_768"}


def test_lengths_of_the_environment_are_listed_everywhere(cache, monkeypatch):
    before = tasks_path()
    monkeypatch.setenv("CTXBENCH_LENGTHS", "24k, 1m")
    assert tasks_path() != before
    names = set(manager().all_tasks)
    assert {"ruler_24k", "ruler_1m_vt", "niah_1m", "pg19_ppl_24k", "longbench_24k"} < names
    assert not any(re.search(r"_(24|24576)shot", name) for name in names)
    monkeypatch.setenv("CTXBENCH_LENGTHS", "24k,long")
    with pytest.raises(ValueError, match="'long' is not a length"):
        tasks_path()


def test_the_entry_points_package_is_this_folder(cache):
    code = (
        "import importlib, importlib.util, importlib.resources as resources\n"
        "spec = importlib.util.find_spec('ctxbench.task_files')\n"
        "print(spec.submodule_search_locations[0])\n"
        "module = importlib.import_module('ctxbench.task_files')\n"
        "print(module.__path__[0], resources.files(module), sep='\\n')\n"
    )
    done = run(code)
    assert done.stdout.splitlines() == [str(tasks_path())] * 3, done.stderr


def test_names_of_lengths_go_both_ways():
    for tokens in (1, 1000, 1024, 4096, 24576, 131072, 1024**2, 3 * 1024**2):
        assert parse_length(length_name(tokens)) == tokens
