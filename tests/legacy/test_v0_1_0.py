"""What users of version 0.1.0 have on their disks opens, goes on, and gives the same numbers.

The files are in v0_1_0/*.tar.xz; make_v0_1_0.py says how they were made. An assertion here changes
only when a release says by name what no longer opens, and what to do about it.
"""

import hashlib
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ctxbench import get_method, list_methods, load_model
from ctxbench.cli import main

ARCHIVES = Path(__file__).parent / "v0_1_0"
ROUNDING = {"rtol": 0, "atol": 2e-5}
"""Of float32 logits up to 10 on another kind of processor; on the same one they are equal."""


def unpack(name: str, folder: Path) -> Path:
    """Unpack an archive; return the folder."""
    with tarfile.open(ARCHIVES / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def digests(folder: Path, expected: dict[str, str]) -> dict[str, str]:
    """Return the sha256 of the files that are expected in a folder."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in expected}


def files(folder: Path, *patterns: str) -> dict[str, bytes]:
    """Name -> bytes of the files of a folder that match."""
    found = {file for pattern in patterns for file in folder.rglob(pattern) if file.is_file()}
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(found)}


def logits(model, ids: np.ndarray) -> np.ndarray:
    """Return the logits of every fourth position, as they were kept."""
    with torch.no_grad():
        return model(torch.from_numpy(ids)).logits[0, 3::4].numpy()


# ------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return unpack("checkpoints", tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def expected(checkpoints):
    return np.load(checkpoints / "expected.npz")


RECORDS = {  # method, trained_length, adopted, overridden
    "none": ("none", None, False, {}),
    "pi": ("pi", 64, False, {}),
    "yarn": ("yarn", 64, False, {}),
    "dynamic_ntk": ("dynamic_ntk", 64, False, {}),
    "clex": ("clex", 64, False, {}),
    "landmark": ("landmark", 16, False, {}),
    "longlora": ("longlora", 64, False, {}),
    "self_extend": ("self_extend", None, False, {}),
    "adopted": ("pi", 64, True, {}),
    "overridden": ("pi", 64, False, {"factor": 4.0}),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_checkpoint_gives_its_logits(checkpoints, expected, name):
    from ctxbench.methods.record import read_record

    model, tokenizer = load_model(checkpoints / name)
    ids = expected["ids"] if name != "none" else expected["ids"][:, :16]
    np.testing.assert_allclose(logits(model, ids), expected[name], **ROUNDING)
    record = read_record(model.config)
    assert record is not None
    found = record.method, record.trained_length, record.adopted, record.overridden
    assert found == RECORDS[name]
    assert record.original_length == 16
    assert len(tokenizer) == (101 if name == "landmark" else 100)


def test_the_methods_differ(expected):
    """Else the test above would not see a method that is ignored."""
    kept = [expected[name] for name in (*RECORDS, "my_method") if name not in ("none", "adopted")]
    kept = [table[:, :100] for table in kept]  # landmark has a token more
    alike = {(i, j) for i in range(len(kept)) for j in range(i) if np.allclose(kept[i], kept[j])}
    assert alike == {(5, 0)}, "longlora is pi at evaluation"


@pytest.mark.parametrize("name", ["dynamic_ntk", "clex", "landmark", "self_extend"])
def test_what_plain_transformers_would_compute_wrongly_it_refuses(checkpoints, name):
    from transformers import AutoModelForCausalLM

    with pytest.raises((ValueError, KeyError), match=f"needs_ctxbench_method_{name}"):
        AutoModelForCausalLM.from_pretrained(checkpoints / name)


def test_an_exported_checkpoint_computes_its_method_with_and_without_us(checkpoints, expected):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(checkpoints / "exported")
    np.testing.assert_allclose(logits(plain, expected["ids"]), expected["exported"], **ROUNDING)
    ours, _ = load_model(checkpoints / "exported")
    np.testing.assert_allclose(logits(ours, expected["ids"]), expected["exported"], **ROUNDING)


def test_a_users_method_file_and_its_checkpoint(checkpoints, expected, monkeypatch):
    """A class that says no name: the file's name is the method's."""
    with pytest.raises(ValueError, match=r"(?s)no method 'my_method'.*CTXBENCH_METHODS"):
        load_model(checkpoints / "my_method")
    monkeypatch.setenv("CTXBENCH_METHODS", str(checkpoints / "methods"))
    assert "my_method" in list_methods()
    assert get_method("my_method", factor="2").factor == 2.0
    for model, _ in (
        load_model(checkpoints / "my_method"),
        load_model(checkpoints / "base", "my_method", length=64),
    ):
        np.testing.assert_allclose(
            logits(model, expected["ids"]), expected["my_method"], **ROUNDING
        )


# ---------------------------------------------------------------------- training


@pytest.fixture
def training(tmp_path, monkeypatch):
    monkeypatch.chdir(unpack("training", tmp_path))
    monkeypatch.setenv("CTXBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_training_goes_on_from_its_checkpoint(training, capfd):
    from ctxbench.train.cli import run

    expected = np.load("expected.npz")
    before = Path("run/metrics.jsonl").read_text().splitlines()
    assert len(before) == 5
    run(["--recipe", "recipe.yaml", "--output", "run"])
    assert "Resumed at step 4 from run/checkpoints/step_00000004" in "".join(capfd.readouterr())
    after = Path("run/metrics.jsonl").read_text().splitlines()
    assert after[:4] == before[:4]
    losses = [json.loads(line)["loss"] for line in after]
    np.testing.assert_allclose(losses, expected["losses"], **ROUNDING)
    found = logits(load_model("run")[0], expected["ids"])
    # three Adam steps of 0.01 on rounding's errors
    np.testing.assert_allclose(found, expected["run"], rtol=0, atol=1e-4)


def test_a_finished_training_and_its_adapter(training):
    from ctxbench.methods.adapters import load_adapters

    expected = np.load("expected.npz")
    model, _ = load_model("longlora")
    np.testing.assert_allclose(logits(model, expected["ids"]), expected["longlora"], **ROUNDING)
    base, _ = load_model("model", "longlora", length=32)
    whole = "longlora/adapter/trained_whole.safetensors"
    from safetensors.torch import load_file

    assert not base.load_state_dict(load_file(whole), strict=False).unexpected_keys
    adapted = load_adapters(base, "longlora/adapter")
    np.testing.assert_allclose(logits(adapted, expected["ids"]), expected["longlora"], **ROUNDING)


def test_a_token_store_opens_and_is_made_again_to_the_byte(training, capfd):
    arguments = ["corpus.jsonl", "--tokenizer", "model", "--output", "again", "--tokens", "1000"]
    arguments += ["--mix", "c4=0.6,book=0.4", "--long", "40"]
    assert main(["data", "tokenize", *arguments]) == 0
    assert files(Path("again"), "*.json", "*.npy", "*.bin") == files(Path("store"), "*.*")
    assert "1,000 tokens in again" in capfd.readouterr().out


def test_tokens_kept_by_path_and_time_are_made_anew(training, monkeypatch):
    """0.1.0 found them by path, size and time of a file, which say nothing of what is in it."""
    from transformers import AutoTokenizer

    from ctxbench.train.data import open_mixture

    file, tokenizer = training / "corpus.jsonl", AutoTokenizer.from_pretrained("model")
    stamp = [[str(file), file.stat().st_size, file.stat().st_mtime_ns]]
    backend = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    key = json.dumps([2, [stamp, "text"], backend])
    folder = training / "cache" / "tokens" / hashlib.sha256(key.encode()).hexdigest()[:16]
    folder.mkdir(parents=True)
    kept = np.full(64, 7, np.uint16)
    kept.tofile(folder / "tokens.bin")
    np.save(folder / "starts.npy", np.array([0, 64]))
    row = open_mixture([str(file)], tokenizer, seed=0).row(0, 32)
    assert (row["input_ids"] != 7).any()
    content = (folder / "tokens.bin").read_bytes()
    assert content == kept.tobytes(), "what is not used is left alone"


# ----------------------------------------------------------------------- answers


def test_kept_answers_are_refused_by_name(tmp_path, monkeypatch, caplog):
    """Their keys knew neither generation settings nor the config; results stay the same."""
    from lm_eval import simple_evaluate
    from lm_eval.api.registry import get_model
    from lm_eval.tasks import TaskManager

    from ctxbench.tasks.leaf_files import tasks_path

    monkeypatch.chdir(unpack("answers", tmp_path))
    code = Path("my_task/build.py")  # a module that moved; CHANGELOG says where to
    code.write_text(
        code.read_text().replace("ctxbench.stdlib_corpus", "ctxbench.core.stdlib_corpus")
    )
    expected = json.loads(Path("expected.json").read_text())
    kept = Path("answers") / expected["file"]
    before = kept.read_bytes()
    asked = expected["asked"]
    model = get_model("ctxext").create_from_arg_string(asked.pop("model_args"))
    assert f"{kept} hold answers that version 0.1.0 kept." in caplog.text
    assert "Delete these files." in caplog.text
    manager = TaskManager(
        include_path=[str(tasks_path()), "my_task"],
        include_defaults=False,
        metadata={"pretrained": "mini", "length": 2048, **asked.pop("metadata")},
    )
    found = simple_evaluate(
        model, **asked, task_manager=manager, log_samples=False, bootstrap_iters=0
    )
    assert found is not None
    assert kept.read_bytes() == before
    for task, results in expected["results"].items():
        for name, value in results.items():
            numbers = value if isinstance(value, list) else [value]
            number = all(isinstance(one, float) for one in numbers)
            close = pytest.approx(value, rel=1e-4, nan_ok=True) if number else value
            assert found["results"][task][name] == close


# ----------------------------------------------------------------------- results


@pytest.mark.parametrize("folder", ["results", "compact"])
def test_result_files_give_their_heat_map(tmp_path, folder, capsys):
    unpack("results", tmp_path)
    expected = json.loads((tmp_path / "expected.json").read_text())
    assert len(expected) == 1
    out = tmp_path / "out"
    assert main(["report", "heatmap", str(tmp_path / folder), "--out", str(out)]) == 0
    assert digests(out, expected) == expected
    assert "dynamic_ntk, frozen" in capsys.readouterr().out


def test_results_become_compact_to_the_byte(tmp_path, capsys):
    """Copies were folders; they are archives, which hold the same files."""
    unpack("results", tmp_path)
    before = list(files(tmp_path / "compact", "*.*").values())
    for folder in ("results", "compact"):
        archive, again = tmp_path / f"{folder}-archive", tmp_path / f"{folder}-again"
        assert main(["report", "compact", str(tmp_path / folder), "--out", str(archive)]) == 0
        kept = str(archive / "cells.jsonl.xz")
        assert main(["report", "unpack", kept, "--out", str(again)]) == 0
        assert list(files(again, "*.*").values()) == before


# ------------------------------------------------------------------------- study


TURNED = {
    *("tables/longbench.csv", "tables/subtasks-256.csv", "tables/subtasks-512.csv"),
    *("tables.tex", "report.md"),
}
"""A table of more methods than measures has its methods downwards since then."""


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(unpack("study", tmp_path))
    return tmp_path / "folder"


@pytest.mark.parametrize("kept", ["as it is", "plan and cells alone"])
def test_a_study_gives_its_report_to_the_byte(study, kept, tmp_path, capsys):
    """Plan and cells alone are what a repository keeps of a study."""
    import shutil

    if kept != "as it is":
        for part in ("answers", "logs", "runs"):
            shutil.rmtree(study / part)
    expected = json.loads((tmp_path / "expected.json").read_text())
    assert main(["report", str(study), "--out", "out", "--no-figures"]) == 0
    found = digests(Path("out"), expected)
    assert {name for name in expected if found[name] != expected[name]} == TURNED


def test_a_study_goes_on(study, capfd):
    """Done cells stay, a finished run is divided, a killed one goes on, a failed cell waits."""
    done = files(study, "cells/**/*", "train/**/*", "study.json")
    name = "cells/base/seed-none/needle_256/cell.json"
    assert name not in done
    assert list(study.glob("runs/*/*/.*.partial"))
    arguments = ["study", "study.yaml", "--output", "folder", "--device", "cpu"]
    status = main([*arguments, "--processes", "1", "--no-report"])
    printed = capfd.readouterr().out
    assert status == 1, "a cell has failed"
    assert re.search(r"16 cells done, 1 cells failed in", printed)
    assert "--retry-failed" in printed
    after = files(study, "cells/**/*", "train/**/*", "study.json")
    assert {name: after.get(name) for name in done} == done
    note = json.loads(after[name])
    assert (note["status"], note["row"], note["column"]) == ("done", "base", "needle_256")
    assert not list(study.glob("runs/*/*/*"))
    (failed,) = [n for n, text in after.items() if b'"status": "failed"' in text]
    assert failed == "cells/narrow/seed-none/needle_512/cell.json"


def test_a_study_of_other_settings_is_refused(study, capsys):
    file = Path("study.yaml")
    file.write_text(file.read_text().replace("warmup: 2", "warmup: 3"))
    assert main(["study", "study.yaml", "--output", "folder"]) == 2
    assert "budget.warmup is 2 there, 3 now" in capsys.readouterr().err


# -------------------------------------------------------------------------- data


RECIPES = ["ruler_1k_vt", "ruler_1k_niah_multikey_2", "passkey_1k"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXBENCH_CACHE", str(unpack("data", tmp_path) / "cache"))
    return tmp_path / "cache" / "recipes"


def test_recipes_are_listed_and_whole(data, capsys):
    assert main(["data", "verify"]) == 0
    assert capsys.readouterr().out.count("10 samples whole") == 4
    assert main(["data", "ls"]) == 0
    assert "niah_1k-1262e950a80c642f  10 samples" in capsys.readouterr().out


@pytest.mark.parametrize("task", RECIPES)
def test_recipes_are_found_and_written_out(data, task, capsys):
    _found(data, task, capsys)


def test_recipes_from_essays_are_found_and_written_out(data, data_dir, monkeypatch, capsys):
    monkeypatch.setenv("CTXBENCH_DATA", str(data_dir))
    _found(data, "niah_1k", capsys)


def _found(data, task, capsys):
    before = files(data, "*.jsonl")
    assert main(["data", "build", task, "--tokenizer", "mini", "--samples", "10"]) == 0
    assert files(data, "*.jsonl") == before, "they were made again"
    capsys.readouterr()
    assert main(["data", "verify", task, "--prompts", "--tokenizer", "mini"]) == 0
    assert "10 samples whole" in capsys.readouterr().out
