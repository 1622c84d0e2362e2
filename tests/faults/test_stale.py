"""Folders that were begun with something else: noticed and named, never mixed."""

import json
import shutil

import pytest

from ctxbench.core.assets import resolve_model
from ctxbench.study import folder
from ctxbench.study.loading import load_study
from tests.study.small import write_study


@pytest.fixture
def study(tmp_path):
    base = tmp_path / "base"
    shutil.copytree(resolve_model("mini"), base)
    return load_study(write_study(tmp_path, model=str(base)))


def test_another_base_at_the_same_path_is_noticed(study, tmp_path):
    folder.prepare(study, tmp_path / "out")
    folder.prepare(study, tmp_path / "out")
    again = shutil.copytree(tmp_path / "base", tmp_path / "copy")
    shutil.rmtree(tmp_path / "base")
    again.rename(tmp_path / "base")
    folder.prepare(study, tmp_path / "out")  # a copy is the same model
    weights = tmp_path / "base" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"was begun with model base .*give another --output"):
        folder.prepare(study, tmp_path / "out")
    assert str(tmp_path) not in (tmp_path / "out" / "study.json").read_text()


@pytest.mark.parametrize("what", ["ctxbench", "lm_eval"])
def test_another_version_is_noticed(study, tmp_path, what):
    folder.prepare(study, tmp_path / "out")
    file = tmp_path / "out" / "study.json"
    content = json.loads(file.read_text())
    content["made_with"][what] = "0.0"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"was begun with {what} .0.0., and now it is"):
        folder.prepare(study, tmp_path / "out")
    del content["made_with"]  # of a version that did not note it
    file.write_text(json.dumps(content))
    folder.prepare(study, tmp_path / "out")
    assert json.loads(file.read_text()) == content


def test_an_edited_study_file_is_noticed(study, tmp_path):
    folder.prepare(study, tmp_path / "out")
    changed = load_study(write_study(tmp_path, model=study.model, together="column", length=512))
    with pytest.raises(ValueError, match=r"was begun with other settings: length is"):
        folder.prepare(changed, tmp_path / "out")
