"""The loop: exact over processes, bitwise over interruptions, honest about what it cannot do."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ctxbench import load_model
from ctxbench.methods.adapters import load_adapters
from ctxbench.methods.record import read_record
from ctxbench.train.checkpoint import find_checkpoint
from ctxbench.train.loop import STOPPED, train
from tests.train.ranks import launch_ranks
from tests.train.small import METHODS, interrupt_at, losses, small_config


def test_two_processes_give_the_losses_of_one(tmp_path):
    runs = {name: {"micro_batch_size": 1, **values} for name, values in METHODS.items()}
    for name, values in runs.items():
        train(small_config(tmp_path, **values, output=str(tmp_path / f"one_{name}")))
    two = [{**v, "output": str(tmp_path / f"two_{name}")} for name, v in runs.items()]
    launch_ranks(tmp_path, 2, *two)
    for name in runs:
        one, two = losses(tmp_path / f"one_{name}"), losses(tmp_path / f"two_{name}")
        assert len(one) == 6
        assert one[0] - one[-1] > 0.01, "nothing was learned"
        # float32; the order of the sums over rows differs
        assert two == pytest.approx(one, abs=1e-5, rel=0)


def test_accumulation_and_unequal_weights_equal_one_batch(tmp_path):
    """Rows with few scored tokens must not weigh as much as rows with many."""
    common = {"document_mask": True, "batch_size": 4}
    train(small_config(tmp_path, **common, micro_batch_size=1, output=str(tmp_path / "a")))
    train(small_config(tmp_path, **common, micro_batch_size=4, output=str(tmp_path / "b")))
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), abs=1e-5, rel=0)


RESUMED = {**METHODS, "average": {"method": "pi", "ema_decay": 0.9}}


@pytest.mark.parametrize("name", RESUMED)
def test_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path, name, monkeypatch):
    # attention dropout: randomness must not depend on what ran before
    values = RESUMED[name]
    whole = small_config(tmp_path, **values, output=str(tmp_path / "whole"), save_every=2)
    if name != "landmark":  # which has no dropout
        monkeypatch.setattr("ctxbench.train.loop.build_model", _with_dropout)
    train(whole)
    broken = dataclasses.replace(whole, output=str(tmp_path / "broken"))
    with monkeypatch.context() as patch:
        patch.setattr("ctxbench.train.loop.learning_rate", interrupt_at(5))
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    assert len(losses(tmp_path / "broken")) == 5
    train(broken)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    one, two = (load_model(config.output)[0].state_dict() for config in (whole, broken))
    assert all(torch.equal(one[name], two[name]) for name in one)


def _with_dropout(config):
    from ctxbench.train.model import build_model

    model, tokenizer = build_model(config)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    return model, tokenizer


def test_sigterm_saves_and_the_run_goes_on_from_there(tmp_path, monkeypatch):
    config = small_config(tmp_path, save_every=0)
    from ctxbench.train.schedule import learning_rate

    def terminate_at_three(config, step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return learning_rate(config, step)

    monkeypatch.setattr("ctxbench.train.loop.learning_rate", terminate_at_three)
    with pytest.raises(SystemExit) as stopped:
        train(config)
    assert stopped.value.code == STOPPED
    found = find_checkpoint(tmp_path / "out" / "checkpoints")
    assert found is not None
    assert found.step == 4  # the signal came in update 3, and is asked for once per update
    monkeypatch.undo()
    train(config)
    assert len(losses(tmp_path / "out")) == 6


def test_resume_refuses_another_run(tmp_path):
    config = small_config(tmp_path, save_every=3, steps=3)
    train(config)
    with pytest.raises(ValueError, match=r"other settings: \{'lr': 0.01\} there, \{'lr': 0.02\}"):
        train(dataclasses.replace(config, lr=0.02))
    with pytest.raises(ValueError, match="resume=never"):
        train(dataclasses.replace(config, resume="never"))
    with (tmp_path / "data.jsonl").open("a") as stream:
        stream.write('{"text": "one more"}\n')
    with pytest.raises(ValueError, match="other data"):
        train(config)


@pytest.mark.parametrize("method", ["none", "pi", "yarn", "dynamic_ntk"])
def test_result_opens_as_the_record_says(tmp_path, method):
    config = small_config(tmp_path, method=method, steps=3)
    train(config)
    model, tokenizer = load_model(config.output)
    record = read_record(model.config)
    assert (record.method, record.trained_length) == (method, 32)
    assert model.config.max_position_embeddings == 32
    card = (tmp_path / "out" / "README.md").read_text()
    assert method in card
    ids = torch.arange(2, 34)[None]
    with torch.no_grad():
        ours = model(ids).logits
        if method == "dynamic_ntk":
            assert record.options["factor"] == 1.0  # 32 / (2 x 16)
            assert record.options["floor"] == 32
            with pytest.raises((ValueError, KeyError), match="needs_ctxbench_method_dynamic_ntk"):
                AutoModelForCausalLM.from_pretrained(config.output)
        else:
            plain = AutoModelForCausalLM.from_pretrained(config.output)
            assert torch.equal(plain(ids).logits, ours)
    assert tokenizer("a")["input_ids"]


def test_bfloat16_weights_are_refused(tmp_path, monkeypatch):
    from ctxbench.train.model import build_model

    def half(config):
        model, tokenizer = build_model(config)
        return model.to(torch.bfloat16), tokenizer

    monkeypatch.setattr("ctxbench.train.loop.build_model", half)
    with pytest.raises(ValueError, match="must be float32"):
        train(small_config(tmp_path))


def test_bf16_compute_trains_like_float32(tmp_path):
    train(small_config(tmp_path, output=str(tmp_path / "full")))
    train(small_config(tmp_path, dtype="bf16", output=str(tmp_path / "half")))
    # bfloat16 products have 8 bits; the sums and the loss are float32
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "full"), abs=0.02)


def test_lora_is_merged_and_kept(tmp_path):
    config = small_config(tmp_path, lora_rank=4, method="pi", steps=3)
    train(config)
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").exists()
    base = AutoModelForCausalLM.from_pretrained(config.model).state_dict()
    merged = AutoModelForCausalLM.from_pretrained(config.output).state_dict()
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "k_proj", "v_proj", "o_proj"}


@pytest.mark.parametrize("name", ["clex", "longlora", "landmark"])
def test_methods_with_trained_parts_train_and_reopen(tmp_path, name):
    config = small_config(tmp_path, **METHODS[name], steps=3)
    train(config)
    assert losses(tmp_path / "out")[-1] < losses(tmp_path / "out")[0]
    model, _ = load_model(config.output)
    assert torch.isfinite(model(torch.arange(2, 34)[None]).logits).all()
    card = (tmp_path / "out" / "README.md").read_text()
    stock = name == "longlora"
    assert ("Plain `transformers` computes the same" in card) == stock
    assert ("refuses the config" in card) != stock
    if not stock:
        with pytest.raises(Exception, match=f"needs_ctxbench_method_{name}"):
            AutoModelForCausalLM.from_pretrained(config.output)


def test_clex_trains_its_equation(tmp_path):
    config = small_config(tmp_path, **METHODS["clex"], steps=4)
    train(config)
    rotary = load_model(config.output)[0].base_model.rotary_emb
    assert rotary.down.abs().max() > 1e-3, "zero at the start"


def test_longlora_trains_adapters_embeddings_and_norms(tmp_path):
    from safetensors.torch import load_file

    config = small_config(tmp_path, **METHODS["longlora"], steps=3)
    train(config)
    base, _ = load_model(config.model, "longlora", length=32, rank=4)
    merged, _ = load_model(config.output)
    changed = {
        n for n, t in base.state_dict().items() if not torch.equal(t, merged.state_dict()[n])
    }
    assert {n.split(".")[-2] for n in changed} == {
        "embed_tokens", "lm_head", "q_proj", "k_proj", "v_proj", "o_proj", "norm",
        "input_layernorm", "post_attention_layernorm",
    }  # fmt: skip

    ids = torch.arange(2, 34)[None]
    whole = load_file(tmp_path / "out" / "adapter" / "trained_whole.safetensors")
    missing = base.load_state_dict(whole, strict=False)
    assert not missing.unexpected_keys
    adapted = load_adapters(base, str(tmp_path / "out" / "adapter"))
    with torch.no_grad():  # adapters apart and merged differ by rounding
        torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, rtol=0, atol=1e-5)


def test_perplexity_is_measured_on_the_way(tmp_path):
    import json

    values = {"eval_lengths": (16, 32), "eval_every": 2, "eval_rows": 3}
    config = small_config(tmp_path, steps=4)
    config = dataclasses.replace(config, **values, eval_data=config.data)
    train(config)
    text = (tmp_path / "out" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [("perplexity_32" in line, "perplexity_16" in line) for line in lines] == [
        (False, False), (True, True), (False, False), (True, True),
    ]  # fmt: skip
    assert lines[3]["perplexity_32"] < lines[1]["perplexity_32"]


def test_perplexity_of_a_method_that_feeds_other_tokens_is_the_models_own(tmp_path, monkeypatch):
    from accelerate import Accelerator

    from ctxbench.methods.pi import PositionInterpolation
    from ctxbench.train.data import open_mixture
    from ctxbench.train.evaluate import perplexities
    from ctxbench.train.loss import CausalLoss
    from ctxbench.train.model import build_model

    config = small_config(tmp_path, method="pi")
    config = dataclasses.replace(config, eval_data=config.data, eval_lengths=(16, 32))
    model, tokenizer = build_model(config)
    network, data = CausalLoss(model, torch.float32), open_mixture(config.data, tokenizer, seed=0)
    chunked = perplexities(network, data, config, Accelerator(cpu=True))
    monkeypatch.setattr(PositionInterpolation, "encode", lambda *_: ([], []))
    assert perplexities(network, data, config, Accelerator(cpu=True)) == pytest.approx(chunked)


def test_world_size_other_than_asked_for_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="torchrun --nproc-per-node 3"):
        train(dataclasses.replace(small_config(tmp_path), processes=3))


WORKER = Path(__file__).with_name("kill_worker.py")


@pytest.mark.slow
def test_killed_twenty_times_the_curve_is_bitwise_the_same(tmp_path):
    done = subprocess.run(
        [sys.executable, str(WORKER), str(tmp_path), "20"],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["while_saving"] == 10
    assert found["torn"] >= 1, "no kill hit a half-written checkpoint, which shows too little"
    assert len(losses(tmp_path / "whole")) == 400
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
