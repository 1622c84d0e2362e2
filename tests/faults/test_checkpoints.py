"""Damaged and hostile checkpoints."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import ctxbench
from ctxbench.models.ctxext import CtxExt
from ctxbench.train.sources import open_stream, parse_source


class Evil:
    """Unpickled, it would create a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("content", [b"", b"x" * 100, "half"])
@pytest.mark.parametrize("load", [ctxbench.load_model, lambda path: CtxExt(str(path))])
def test_damaged_weights_are_named(checkpoint, load, content):
    file = checkpoint / "model.safetensors"
    half = file.read_bytes()[: file.stat().st_size // 2]
    file.write_bytes(half if content == "half" else content)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged or cut short.*again"):
        load(checkpoint)


def test_missing_weights_and_tokenizers_are_named(checkpoint):
    (checkpoint / "tokenizer.json").rename(checkpoint / "x")
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer: none of tokenizer\.json"):
        ctxbench.load_model(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights .* cannot be had: .*model.safetensors"):
        ctxbench.load_model(checkpoint)


def test_damaged_tokenizers_are_named(checkpoint):
    (checkpoint / "tokenizer.json").write_text('{"version"')
    for load in (ctxbench.load_model, lambda path: CtxExt(str(path))):
        with pytest.raises(ValueError, match=r"tokenizer\.json is damaged or cut short"):
            load(checkpoint)


def test_damaged_tensors_of_a_method_are_named(tmp_path):
    model, tokenizer = ctxbench.load_model("mini", "clex", length=1024, max_factor=16)
    folder = ctxbench.save_model(model, tokenizer, tmp_path, trained_length=1024)
    file = folder / "ctxbench_state.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"ctxbench_state.safetensors is damaged"):
        ctxbench.load_model(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks ctxbench_state.safetensors"):
        ctxbench.load_model(folder)


def test_pickles_run_nothing(checkpoint, tmp_path, tokenizer):
    evil = tmp_path / "evil"
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(evil), protocol=2))
    for load in (ctxbench.load_model, lambda path: CtxExt(str(path))):
        with pytest.raises(ValueError, match="a pickle that holds more than tensors"):
            load(checkpoint)
    np.save(tmp_path / "a.npy", np.array([Evil(evil)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="holds Python objects"):
        open_stream(parse_source(str(tmp_path / "a.npy")), tokenizer)
    assert not evil.exists()


def test_code_in_a_checkpoint_is_not_run(checkpoint, tmp_path):
    evil = tmp_path / "evil"
    (checkpoint / "evil.py").write_text(f"import os; os.mkdir({str(evil)!r})\nclass Evil: pass\n")
    config = json.loads((checkpoint / "config.json").read_text())
    parts = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    (checkpoint / "config.json").write_text(
        json.dumps({**config, "model_type": "evil", "auto_map": parts})
    )
    for load in (ctxbench.load_model, lambda path: CtxExt(str(path))):
        with pytest.raises(ValueError, match="contains custom code"):
            load(checkpoint)
    assert not evil.exists()
