"""Sharded weights and shared rows: the same losses as one process, checkpoints for any number."""

import json
import math
import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ctxbench import load_model
from ctxbench.train.export import gather_weights
from ctxbench.train.loop import train
from ctxbench.train.sequence import SequenceParallel
from tests.methods.tiny import tiny_model
from tests.train.ranks import launch_ranks
from tests.train.small import METHODS, losses, small_config, small_data, small_model

ACCELERATE = Path(__file__).resolve().parents[2] / "train" / "accelerate"
HEADS = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2}
COMMON = {
    "micro_batch_size": 1, "ema_decay": 0.5, "activation_checkpointing": "selective",
    "eval_data": "stdlib:text=1,split=held_out", "eval_lengths": [16, 32], "eval_every": 3,
    "eval_rows": 3,
}  # fmt: skip
FAST = ("clex", "longlora")  # trained tensors of its own; adapters, and heads in two blocks
SLOW = tuple(name for name in METHODS if name not in FAST)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight heads, two of keys; losses of one process by name of the run."""
    folder = tmp_path_factory.mktemp("runs")
    small_model(folder / "model", **HEADS)
    small_data(folder / "data.jsonl")
    return folder


def settings(folder, name, kind, **values):
    return {**COMMON, **METHODS[name], "output": str(folder / f"{name}_{kind}"), **values}


def alone(folder, name) -> list[float]:
    """Losses and perplexities of one process."""
    if not (folder / f"{name}_one").exists():
        train(small_config(folder, **settings(folder, name, "one")))
        assert measured(folder / f"{name}_one")[0] - losses(folder / f"{name}_one")[-1] > 0.01
    return measured(folder / f"{name}_one")


def measured(folder) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return losses(folder) + [math.log(v) for m in lines for k, v in m.items() if "perplexity" in k]


def check(folder, name, kind):
    # float32; the order of the sums differs
    assert measured(folder / f"{name}_{kind}") == pytest.approx(
        alone(folder, name), abs=1e-5, rel=0
    )
    one, many = (load_model(folder / f"{name}_{k}")[0].state_dict() for k in ("one", kind))
    for key in one:  # Adam's first steps make rounding of small gradients visible
        torch.testing.assert_close(many[key], one[key], rtol=0, atol=2e-3)


SHARDED = {"shard": 2}
SHARED = {"sequence_parallel": 2}


@pytest.fixture(scope="module")
def two_processes(folder):
    """Runs of two processes; two more of them were interrupted after three updates."""
    runs = [settings(folder, name, "sharded", **SHARDED) for name in FAST]
    runs += [settings(folder, name, "shared", **SHARED) for name in FAST]
    broken = {**SHARDED, "save_every": 3, "stop": 3}
    runs += [settings(folder, name, "broken", **broken) for name in FAST]
    launch_ranks(folder, 2, *runs)


@pytest.mark.parametrize("kind", ["sharded", "shared"])
@pytest.mark.parametrize("name", FAST)
def test_two_processes_have_the_losses_of_one(folder, two_processes, name, kind):
    """With accumulation, a moving average, perplexities on the way."""
    check(folder, name, kind)


@pytest.mark.parametrize("name", FAST)
def test_one_process_goes_on_from_two(folder, two_processes, name):
    broken, going_on = folder / f"{name}_broken", folder / f"{name}_goes_on"
    assert len(losses(broken)) == 3
    files = {f.name for f in (broken / "checkpoints" / "step_00000003").iterdir()}
    assert {"state-00000.safetensors", "state-00001.safetensors"} < files
    shutil.copytree(broken, going_on)
    train(small_config(folder, **settings(folder, name, "goes_on", save_every=3)))
    check(folder, name, "goes_on")


@pytest.mark.slow
def test_two_processes_with_the_other_methods(folder):
    kinds = {"sharded": SHARDED, "shared": SHARED}
    runs = [settings(folder, n, kind, **v) for kind, v in kinds.items() for n in SLOW]
    launch_ranks(folder, 2, *runs)
    for kind, name in product(kinds, SLOW):
        check(folder, name, kind)


@pytest.mark.slow
def test_four_processes_have_the_losses_of_one(folder, two_processes):
    """Rows shared by four; rows shared by two, weights cut over two, in two copies; resumed."""
    kinds = {
        "shared4": {"sequence_parallel": 4},
        "both": {"shard": 2, "sequence_parallel": 2},
    }
    runs = [settings(folder, n, kind, **v) for kind, v in kinds.items() for n in METHODS]
    for name in FAST:
        shutil.copytree(folder / f"{name}_broken", folder / f"{name}_four")
        runs.append(settings(folder, name, "four", shard=4, save_every=3))
    launch_ranks(folder, 4, *runs)
    for kind, name in product(kinds, METHODS):
        check(folder, name, kind)
    for name in FAST:
        check(folder, name, "four")


def test_heads_that_do_not_divide_are_refused():
    model = tiny_model("llama")
    heads = model.config.num_attention_heads
    with pytest.raises(ValueError, match=rf"has {heads} heads.*Allowed: 1, 2, 4"):
        SequenceParallel(heads + 1).install(model)
    with pytest.raises(ValueError, match=r"treats in 2 blocks.*Allowed: 1, 2\."):
        SequenceParallel(heads).install(model, head_blocks=2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shard": 2, "batch_size": 4}, "shard=2 needs as many GPUs; this run has 1 process"),
        ({"sequence_parallel": 2}, "sequence_parallel=2 does not divide the 1 processes"),
    ],
    ids=str,
)
def test_what_one_process_cannot_do(folder, values, message):
    with pytest.raises(ValueError, match=message):
        train(small_config(folder, **values, output=str(folder / "never")))


def test_muon_is_not_sharded(folder):
    with pytest.raises(ValueError, match="Muon needs whole matrices"):
        small_config(folder, shard=2, optimizer="muon")


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("ACCELERATE_USE_FSDP", "chose FSDP, which ctxbench-train does not run.*--shard N"),
        ("ACCELERATE_USE_DEEPSPEED", "writes no checkpoints and no moving average"),
    ],
)
def test_launchers_that_are_not_followed(folder, monkeypatch, variable, message):
    monkeypatch.setenv(variable, "true")
    config = small_config(folder, save_every=5, output=str(folder / "never"))
    with pytest.raises(ValueError, match=message):
        train(config)


@pytest.mark.parametrize("file", sorted(ACCELERATE.glob("*.yaml")), ids=lambda file: file.stem)
def test_launch_configs_are_accelerates(file):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file))
    assert config.mixed_precision == "no"
    assert config.num_processes in (1, 2, 8, 32)


def test_gathered_weights_are_whole_equal_and_tied(tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = tiny_model("llama")
        model.lm_head.weight = model.model.embed_tokens.weight
        expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        mesh = init_device_mesh("cpu", (1,))
        for part in (*model.model.layers, model):
            fully_shard(part, mesh=mesh)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        gather_weights(model)
    finally:
        dist.destroy_process_group()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    found = model.state_dict()
    assert not any(isinstance(tensor, DTensor) for tensor in found.values())
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
