"""What the tests of faults share."""

import shutil
from pathlib import Path

import pytest

from ctxbench.core.assets import resolve_model
from ctxbench.models.loading import load_tokenizer


@pytest.fixture
def checkpoint(tmp_path):
    return Path(shutil.copytree(resolve_model("mini"), tmp_path / "checkpoint"))


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(resolve_model("mini"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXBENCH_CACHE", str(tmp_path / "cache"))
