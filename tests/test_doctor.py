"""`ctxbench doctor` finds what is missing and says what to do."""

import importlib.metadata
import re
from pathlib import Path

import pytest

from ctxbench import doctor
from ctxbench.cli import main

ROOT = Path(__file__).resolve().parents[1]


def test_tested_versions_are_those_of_the_constraints():
    text = (ROOT / "constraints.txt").read_text()
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", text, re.M))
    assert {name: pinned[name] for name in doctor.TESTED} == doctor.TESTED


def test_data_names_are_those_the_tasks_read():
    sources = "\n".join(file.read_text() for file in (ROOT / "ctxbench" / "tasks").rglob("*.py"))
    for data in doctor.DATA:
        for name in data.names:
            assert f'"{name}"' in sources or f'"{Path(name).name}"' in sources, name


@pytest.mark.parametrize(
    ("version", "mark", "words"),
    [("2.13.1", "ok", "tested: 2.11 and"), ("2.10.0", "FAIL", "older than 2.11. pip install -U"),
     ("2.14.0", "note", "newer than what is tested"), ("3.0rc1+cu999", "note", "newer")],
)  # fmt: skip
def test_versions(version, mark, words, monkeypatch):
    monkeypatch.setattr(doctor, "_lowest", lambda: {"torch": "2.11"})
    found = doctor.check_version("torch", lambda name: version)
    assert found.mark == mark
    assert words in found.text


def test_a_missing_package_fails():
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    assert doctor.check_version("peft", missing).mark == "FAIL"


def test_lowest_versions_are_the_packages_own():
    text = (ROOT / "pyproject.toml").read_text()
    lowest = doctor._lowest()
    for name in doctor.TESTED:
        written = re.search(rf'"{name.replace("_", "[-_]")}>=([\d.]+)"', text)
        assert written
        assert lowest[name] == written[1]


def test_data_and_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXBENCH_DATA", str(tmp_path))
    trec = next(data for data in doctor.DATA if data.tasks == "trec_*")
    assert "no trec/train_5500.label here: cogcomp" in doctor.check_data(trec).text
    (tmp_path / "train_5500.label").write_text("x")
    assert doctor.check_data(trec).mark == "ok"
    monkeypatch.setenv("CTXBENCH_CACHE", str(tmp_path / "train_5500.label" / "x"))
    assert doctor.check_cache().mark == "FAIL"
    assert "Set CTXBENCH_CACHE" in doctor.check_cache().text


def test_exit_status_and_no_model_loaded(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "check_discovery", lambda: doctor.Finding("ok", "discovery", "x"))
    assert main(["doctor"]) == 0
    assert "Ready." in capsys.readouterr().out
    failed = doctor.Finding("FAIL", "discovery", "x")
    monkeypatch.setattr(doctor, "check_discovery", lambda: failed)
    assert main(["doctor"]) == 1
    assert "1 of these must be mended" in capsys.readouterr().out


def test_discovery_is_asked_of_a_fresh_interpreter(monkeypatch, tmp_path):
    monkeypatch.setenv("CTXBENCH_NO_AUTOLOAD", "1")
    assert doctor.check_discovery().mark == "note"
    monkeypatch.delenv("CTXBENCH_NO_AUTOLOAD")
    broken = tmp_path / "lm_eval"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('broken on purpose')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = doctor.check_discovery()
    assert found.mark == "FAIL"
    assert "broken on purpose" in found.text
    assert "ctxbench lm-eval" in found.text
