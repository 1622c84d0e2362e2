"""Checkpoints: whole or skipped."""

import json

import pytest
import torch

from ctxbench.train.checkpoint import find_checkpoint, save_checkpoint


def save(folder, step, keep=2):
    tensors = {"a": torch.full((3,), float(step)), "count": torch.tensor(float(step))}
    return save_checkpoint(folder, {"step": step}, tensors, keep)


def test_round_trip_and_pruning(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step_00000002", "step_00000003"]
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 3
    tensors = found.tensors()
    assert tensors.shapes == {"a": (3,), "count": ()}
    a, count = torch.zeros(3), torch.zeros(())
    tensors.load_into("a", a)
    tensors.load_into("count", count)
    assert (a.tolist(), count.item()) == ([3.0] * 3, 3.0)
    with pytest.raises(ValueError, match=r"a of shape \(3,\), this run has \(4,\)"):
        tensors.load_into("a", torch.zeros(4))


def test_nothing_to_find(tmp_path):
    assert find_checkpoint(tmp_path / "none") is None


def shorten(folder):
    file = folder / "state-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    return "state-00000.safetensors has"


def corrupt(folder):
    file = folder / "state-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    return "content of state-00000.safetensors"


def drop(folder):
    (folder / "state-00000.safetensors").unlink()
    return "state-00000.safetensors is missing"


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
