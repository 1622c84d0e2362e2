"""Models that do not fit one device: tensor parallel, and layers that come from disk."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ctxbench import load_model
from tests.train.small import small_model

WORKER = Path(__file__).with_name("tensor_parallel_worker.py")
EIGHT_HEADS = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2}


def run_ranks(model: Path, world: int) -> dict:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(model)],
            env={**common, "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "RANK": str(rank),
                 "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    outputs = [rank.communicate(timeout=300) for rank in ranks]
    for rank, (_, errors) in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, errors[-3000:]
    return json.loads(outputs[0][0].strip().splitlines()[-1])


@pytest.mark.slow
def test_tensor_parallel_scores_are_those_of_one_process(tmp_path):
    model = small_model(tmp_path / "model", **EIGHT_HEADS)
    one, two = run_ranks(model, 1), run_ranks(model, 2)
    for method, (scores, texts) in one.items():
        assert two[method][0] == pytest.approx(scores, abs=1e-4)  # float32, other sums
        assert two[method][1] == texts


@pytest.mark.parametrize(
    ("method", "options"),
    [("pi", {}), ("dynamic_ntk", {}), ("streaming_llm", {"sinks": 2, "window": 12})],
)
def test_layers_from_disk_compute_the_same(tmp_path, method, options):
    """What device_map does where the devices are too small, by Accelerate's hooks on modules."""
    from accelerate import disk_offload

    folder = small_model(tmp_path / "model", **EIGHT_HEADS)
    model, _ = load_model(folder, method, length=64, dtype="float32", **options)
    ids = torch.arange(2, 66)[None].repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, :9] = 0
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).logits
        disk_offload(model, str(tmp_path / "disk"), execution_device=torch.device("cpu"))
        found = model(ids, attention_mask=mask).logits
    assert model.model.layers[0].mlp.up_proj.weight.device.type == "meta"
    assert torch.equal(found[mask.bool()], expected[mask.bool()])
