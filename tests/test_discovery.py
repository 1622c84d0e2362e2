"""lm_eval finds the model and the tasks with no flag, and nothing of ours disturbs Python."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from ctxbench import _startup, plugin

ROOT = Path(__file__).resolve().parents[1]
EVALUATE = (
    "import lm_eval; r = lm_eval.simple_evaluate(model='ctxext', tasks=['mini_needle_128'], "
    "model_args={'pretrained': 'mini', 'method': 'pi', 'length': 512}, limit=2); "
    "print('found', 'mini_needle_128' in r['results'])"
)


def run(*command: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **env},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_the_start_up_line_is_exactly_this():
    """It runs in every Python start of the environment; whoever reads it must see what it does."""
    assert (ROOT / "ctxbench_autoload.pth").read_text() == (
        'import sys; exec("try:\\n import ctxbench._startup as s\\n s.install()\\n'
        'except Exception: pass")\n'
    )
    assert (ROOT / "ctxbench_autoload.start").read_text() == "ctxbench._startup:install\n"
    source = (ROOT / "ctxbench" / "_startup.py").read_text()
    assert source.count("\nimport ") == 1, "imports sys and nothing else at start"
    assert "subprocess" not in source
    assert "socket" not in source


def test_a_broken_plugin_disturbs_nobody(monkeypatch):
    monkeypatch.setattr(plugin, "register", lambda name: 1 / 0)
    with pytest.warns(UserWarning, match="ctxbench could not register"):
        _startup._register("lm_eval.models")


def test_an_installed_finder_is_not_installed_again():
    before = list(sys.meta_path)
    _startup.install()
    assert sum(type(f).__name__ == "_AfterImport" for f in sys.meta_path) == max(
        1, sum(type(f).__name__ == "_AfterImport" for f in before)
    )


def test_a_harness_with_discovery_of_its_own_is_left_alone(monkeypatch):
    from lm_eval.api import registry
    from lm_eval.tasks import manager

    monkeypatch.setattr(registry, "load_plugins", lambda: None, raising=False)
    monkeypatch.setattr(manager, "discover_plugin_task_paths", lambda: [], raising=False)

    class Manager:
        def __init__(self):
            pass

    original = Manager.__init__
    monkeypatch.setattr(manager, "TaskManager", Manager)
    monkeypatch.setattr(registry.model_registry, "register", lambda *a, **k: pytest.fail("did"))
    plugin.register_all()
    assert Manager.__init__ is original


def test_entry_points_name_things_that_exist():
    import importlib

    text = (ROOT / "pyproject.toml").read_text()
    sections = re.findall(
        r'^\[project\.(?:entry-points\."(.*?)"|scripts)\]\n((?:.+\n)+)', text, re.M
    )
    groups = [group for group, _ in sections]
    assert groups == ["", "lm_eval.models", "lm_eval.tasks", "lm_eval.aggregations"]
    values = re.findall(r'= "(.+)"', "".join(body for _, body in sections))
    assert len(values) == 6
    for value in values:
        module, _, name = value.partition(":")
        found = importlib.import_module(module)
        assert not name or callable(getattr(found, name))


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A fresh environment with the built wheel, dependencies borrowed from this one."""
    folder = tmp_path_factory.mktemp("venv")
    wheels = tmp_path_factory.mktemp("wheels")
    build = run(
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(ROOT)
    )
    assert build.returncode == 0, build.stderr[-2000:]
    (wheel,) = wheels.glob("ctxbench-*.whl")
    assert run(sys.executable, "-m", "venv", "--without-pip", str(folder)).returncode == 0
    python = str(folder / "bin" / "python")
    (site,) = folder.glob("lib/python*/site-packages")
    ours = sysconfig.get_paths()["purelib"]
    (site / "zz_dependencies.pth").write_text(f"{ours}\n")  # read as a path, runs nothing there
    # ignore what is seen through the borrowed folder: ctxbench may be installed there too
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps"]
    done = run(*pip, "--ignore-installed", str(wheel))
    assert done.returncode == 0, done.stderr[-2000:]
    assert (site / "ctxbench_autoload.pth").exists()
    return folder


@pytest.mark.slow
def test_the_installed_wheel_is_found_everywhere(installed, tmp_path):
    python = str(installed / "bin" / "python")

    def here(*command: str, **env: str):
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", **env},
            capture_output=True,
            text=True,
            timeout=900,
        )

    where = here(python, "-c", "import ctxbench; print(ctxbench.__file__)")
    assert where.stdout.startswith(str(installed)), where.stdout + where.stderr
    listed = here(python, "-m", "lm_eval", "ls", "tasks")
    assert "mini_needle_128" in listed.stdout, listed.stderr[-2000:]
    assert "found True" in here(python, "-c", EVALUATE).stdout
    spawned = tmp_path / "spawned.py"
    spawned.write_text(
        "import multiprocessing as mp\n"
        f"def child():\n    {EVALUATE}\n"
        "if __name__ == '__main__':\n"
        "    p = mp.get_context('spawn').Process(target=child); p.start(); p.join()\n"
    )
    assert "found True" in here(python, str(spawned)).stdout

    off = here(python, "-c", EVALUATE, CTXBENCH_NO_AUTOLOAD="1")
    assert off.returncode != 0
    assert "ctxext" in off.stderr + off.stdout
    command = ["--model", "ctxext", "--model_args", "pretrained=mini,method=pi,length=512"]
    command += ["--tasks", "mini_needle_128", "--limit", "2"]
    own = here(python, "-m", "ctxbench.cli", "lm-eval", *command, CTXBENCH_NO_AUTOLOAD="1")
    assert "|mini_needle_128|" in own.stdout, own.stderr[-2000:]


@pytest.mark.slow
def test_uninstalling_leaves_nothing(installed):
    python = str(installed / "bin" / "python")
    done = run(sys.executable, "-m", "pip", "--python", python, "uninstall", "-q", "-y", "ctxbench")
    assert done.returncode == 0, done.stderr
    (site,) = installed.glob("lib/python*/site-packages")
    assert not [p for p in site.rglob("*") if "ctxbench" in str(p.relative_to(site))]
    assert run(python, "-c", "pass").stderr == ""
