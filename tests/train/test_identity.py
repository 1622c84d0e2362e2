"""Which model a run begins with: its bytes, wherever they lie."""

import shutil

import pytest
from huggingface_hub import constants

from ctxbench.train.identity import checkpoint_identity
from tests.train.small import small_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub's cache that holds one model, and a folder with the same files."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = small_model(tmp_path / "folder")
    repository = tmp_path / "hub" / "models--someone--small"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return folder, repository


def test_a_model_of_the_hub_is_what_its_files_are(hub):
    folder, repository = hub
    expected = checkpoint_identity(str(folder))
    assert checkpoint_identity("someone/small") == expected
    weights = next((repository / "snapshots" / COMMIT).glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert checkpoint_identity("someone/small") != expected


def test_a_model_that_was_not_downloaded_is_named(hub):
    with pytest.raises(FileNotFoundError, match="someone/other"):
        checkpoint_identity("someone/other")
