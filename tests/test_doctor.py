"""`ctxbench doctor` finds what is missing and says what to do."""

import importlib.metadata
import json
import re
import shutil
from pathlib import Path

import pytest
from transformers import Gemma2Config

from ctxbench import doctor
from ctxbench.cli import main
from ctxbench.core.assets import resolve_model
from ctxbench.validate.tiny import tiny_config

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
    assert "no trec/train_5500.label here: ctxbench data fetch trec" in doctor.check_data(trec).text
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


# ---------------------------------------------------------------------- a checkpoint


def looked_at(capsys, model, status=0):
    assert main(["doctor", str(model)]) == status
    *lines, last = capsys.readouterr().out.splitlines()
    assert (last == "Ready.") is (status == 0)
    return {line[5:].partition(":")[0]: line for line in lines}


def edited(folder, tmp_path, **files):
    shutil.copytree(folder, tmp_path / "model")
    for name, edits in files.items():
        file = tmp_path / "model" / f"{name}.json"
        content = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(content | edits))
    return tmp_path / "model"


def test_a_good_checkpoint(capsys):
    found = looked_at(capsys, "mini")
    assert found["config"].startswith("ok   config: llama, window 256 tokens")
    assert not [line for line in found.values() if line.startswith(("note", "FAIL"))]


def test_what_a_checkpoint_needs_is_said(tmp_path, capsys):
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n"
    model = edited(
        resolve_model("mini"), tmp_path,
        tokenizer_config={"chat_template": template},
        generation_config={"repetition_penalty": 1.3, "do_sample": True},
    )  # fmt: skip
    found = looked_at(capsys, model)
    assert "--apply_chat_template, and chat=true" in found["chat template"]
    assert "reasoning_tokens=N" in found["chat template"]
    assert "repetition_penalty=1.3" in found["generation"]


def test_gemma_needs_bos_in_every_window(tmp_path, zoo_path, capsys):
    model = edited(
        zoo_path("llama-2"), tmp_path, config=Gemma2Config(num_hidden_layers=2).to_dict()
    )
    found = looked_at(capsys, model)
    assert found["BOS"] == "ok   BOS: <s> before every text"
    assert "window_bos=True" in found["window_bos"]
    assert "window_bos" not in looked_at(capsys, "mini")


def test_what_cannot_run_fails(tmp_path, zoo_path, capsys):
    config = tiny_config("llama").to_dict()
    model = edited(zoo_path("llama-2"), tmp_path, config=config)
    file = model / "tokenizer_config.json"
    content = json.loads(file.read_text())
    content.pop("eos_token")
    file.write_text(json.dumps(content))
    assert looked_at(capsys, model, status=1)["tokenizer"].startswith("FAIL tokenizer: it names no")
    assert "no config.json" in looked_at(capsys, tmp_path, status=1)["files"]
