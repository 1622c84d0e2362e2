"""Checkpoints: whole or skipped."""

import json

import pytest
import torch

from ctxbench.train.checkpoint import find_checkpoint, save_checkpoint


def save(folder, step, keep=2):
    tensors = {"weights": {"a": torch.full((3,), float(step))}, "average": {}}
    return save_checkpoint(folder, {"step": step}, tensors, [{"state": {}}], keep)


def test_round_trip_and_pruning(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step_00000002", "step_00000003"]
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 3
    assert found.tensors("weights")["a"].tolist() == [3.0] * 3
    assert found.tensors("average") == {}
    assert found.optimizers() == [{"state": {}}]


def test_nothing_to_find(tmp_path):
    assert find_checkpoint(tmp_path / "none") is None


def shorten(folder):
    file = folder / "optimizers.pt"
    file.write_bytes(file.read_bytes()[:-1])
    return "optimizers.pt has"


def corrupt(folder):
    file = folder / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    return "content of weights.safetensors"


def drop(folder):
    (folder / "weights.safetensors").unlink()
    return "weights.safetensors is missing"


def drop_manifest(folder):
    (folder / "manifest.json").unlink()
    return "manifest.json is missing"


def garble_manifest(folder):
    (folder / "manifest.json").write_text(json.dumps(["?"])[:-1])
    return "manifest.json is damaged"


def unfinish(folder):
    folder.rename(folder.with_suffix(".tmp"))
    return "being written"


DAMAGES = [shorten, corrupt, drop, drop_manifest, garble_manifest, unfinish]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_is_named_and_skipped(tmp_path, damage):
    save(tmp_path, 1)
    reason = damage(save(tmp_path, 2))
    said = []
    found = find_checkpoint(tmp_path, said.append)
    assert found is not None
    assert found.step == 1
    assert len(said) == 1
    assert "step_00000002" in said[0]
    assert reason in said[0]
    save(tmp_path, 2)  # the resumed run comes by again
    again = find_checkpoint(tmp_path)
    assert again is not None
    assert again.step == 2
