"""Sharded weights and shared rows: the same losses as one process, checkpoints for any number."""

import shutil

import pytest
import torch

from ctxbench import load_model
from ctxbench.train.loop import train
from tests.train.ranks import launch_ranks
from tests.train.small import METHODS, losses, small_config, small_data, small_model

pytestmark = pytest.mark.filterwarnings(  # peft 0.21 asks transformers 5.23 by the old name
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

HEADS = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2}
COMMON = {"micro_batch_size": 1, "ema_decay": 0.5, "activation_checkpointing": "selective"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight heads, two of keys; losses of one process by name of the run."""
    folder = tmp_path_factory.mktemp("runs")
    small_model(folder / "model", **HEADS)
    small_data(folder / "data.jsonl")
    return folder


def settings(folder, name, kind, **values):
    return {**COMMON, **METHODS[name], "output": str(folder / f"{name}_{kind}"), **values}


@pytest.fixture(scope="module")
def one_process(folder):
    for name in METHODS:
        train(small_config(folder, **settings(folder, name, "one")))
    found = {name: losses(folder / f"{name}_one") for name in METHODS}
    assert all(run[0] - run[-1] > 0.01 for run in found.values()), "nothing was learned"
    return found


def check(folder, one_process, kind):
    for name, expected in one_process.items():
        # float32; the order of the sums differs
        found = losses(folder / f"{name}_{kind}")
        assert found == pytest.approx(expected, abs=1e-5, rel=0), (name, kind)
        one, many = (load_model(folder / f"{name}_{k}")[0].state_dict() for k in ("one", kind))
        for key in one:  # Adam's first steps make rounding of small gradients visible
            torch.testing.assert_close(many[key], one[key], rtol=0, atol=2e-3)


SHARDED = {"shard": 2}
SHARED = {"sequence_parallel": 2}


@pytest.fixture(scope="module")
def two_processes(folder):
    """Runs of two processes; two more of them were interrupted after three updates."""
    runs = [
        settings(folder, name, kind, **values)
        for kind, values in (("sharded", SHARDED), ("shared", SHARED))
        for name in METHODS
    ]
    broken = {**SHARDED, "save_every": 3, "stop": 3}
    runs += [settings(folder, name, "broken", **broken) for name in ("clex", "longlora")]
    launch_ranks(folder, 2, *runs)


@pytest.mark.parametrize("kind", ["sharded", "shared"])
def test_two_processes_have_the_losses_of_one(folder, one_process, two_processes, kind):
    """With accumulation, moving average, adapters, shifted groups, CLEX and Landmark."""
    check(folder, one_process, kind)


@pytest.mark.parametrize("name", ["clex", "longlora"])
def test_one_process_goes_on_from_two(folder, one_process, two_processes, name):
    broken, going_on = folder / f"{name}_broken", folder / f"{name}_goes_on"
    assert len(losses(broken)) == 3
    files = {f.name for f in (broken / "checkpoints" / "step_00000003").iterdir()}
    assert {"state-00000.safetensors", "state-00001.safetensors"} < files
    shutil.copytree(broken, going_on)
    train(small_config(folder, **settings(folder, name, "goes_on", save_every=3)))
    assert losses(going_on) == pytest.approx(one_process[name], abs=1e-5, rel=0)


@pytest.mark.slow
def test_four_processes_have_the_losses_of_one(folder, one_process, two_processes):
    """Rows shared by four; rows shared by two, weights cut over two, in two copies; resumed."""
    kinds = {
        "shared4": {"sequence_parallel": 4},
        "both": {"shard": 2, "sequence_parallel": 2},
    }
    runs = [settings(folder, n, kind, **v) for kind, v in kinds.items() for n in METHODS]
    for name in ("clex", "longlora"):
        shutil.copytree(folder / f"{name}_broken", folder / f"{name}_four")
        runs.append(settings(folder, name, "four", shard=4, save_every=3))
    launch_ranks(folder, 4, *runs)
    for kind in kinds:
        check(folder, one_process, kind)
    check(folder, {name: one_process[name] for name in ("clex", "longlora")}, "four")
