"""Where tests find reference data, and tiny models made in memory."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share the cores (pyproject.toml)

ROOT = Path(__file__).resolve().parents[1]

# a first example may import torch, and the machine may be busy: no test is about time
settings.register_profile("ctxbench", deadline=None)
settings.load_profile("ctxbench")


def _folder(variable: str, name: str) -> Path:
    folder = Path(os.environ.get(variable) or ROOT.parent / "shared" / name)
    if not folder.is_dir():
        pytest.skip(f"needs reference {name}: set {variable} or provide ../shared/{name}")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real inputs: essays, SQuAD, HotpotQA, TREC, tokenizers."""
    return _folder("CTXBENCH_DATA", "data")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Numbers made by the official implementations."""
    return _folder("CTXBENCH_GOLDEN", "golden")


@pytest.fixture(scope="session", autouse=True)
def offline_and_private_cache(tmp_path_factory):
    """No test reaches a hub, and none writes into the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("CTXBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("TOKENIZERS_PARALLELISM", "false")
    yield
    patch.undo()


@pytest.fixture(scope="session")
def zoo_path(tmp_path_factory) -> Callable[[str], str]:
    """Return where a tokenizer of the zoo is; it is made when it is first asked for."""
    from tests import zoo

    folder = tmp_path_factory.mktemp("zoo")
    return cache(lambda name: zoo.save(name, folder))
