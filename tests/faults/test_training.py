"""What goes wrong with real checkpoints and real data when they are extended and trained."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MistralConfig, MixtralConfig

import ctxbench
from ctxbench.core.assets import resolve_model
from ctxbench.core.compat.peft import old_name_asked
from ctxbench.methods.adapters import add_adapters, load_adapters
from ctxbench.methods.attach import method_of
from ctxbench.methods.pi import PositionInterpolation
from ctxbench.models.extended import ExtendedHFLM
from ctxbench.models.loading import load_tokenizer
from ctxbench.train import loop, reopened
from ctxbench.train.checkpoint import find_checkpoint
from ctxbench.train.data import open_mixture
from ctxbench.train.loss import scored_tokens
from tests.train.ranks import launch_ranks
from tests.train.small import interrupt_at, losses, small_config, small_data, small_model

IDS = torch.arange(10, 42)[None]


def mixtral(folder: Path) -> Path:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=1280, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=16,
        num_local_experts=4, num_experts_per_tok=2, sliding_window=None, initializer_range=0.1,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    load_tokenizer(resolve_model("mini")).save_pretrained(folder)
    return folder


# ------------------------------------------------------- what trains, and what does not


def test_every_tensor_of_a_mixture_trains(tmp_path):
    before = load_file(mixtral(tmp_path / "moe") / "model.safetensors")
    loop.train(small_config(tmp_path, model=str(tmp_path / "moe"), method="pi", steps=3, warmup=0))
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def test_what_trains_is_listed_before_it_starts(tmp_path, capfd):
    loop.train(small_config(tmp_path, method="pi", lora_rank=4, steps=1, warmup=0))
    said = capfd.readouterr().err
    assert "Trains 16 tensors, 2,048 of " in said
    assert "2 x model.layers.*.self_attn.q_proj.lora_A.default.weight [4, 32]" in said.replace(
        "base_model.model.", ""
    )
    assert said.index("Trains 16") < said.index("step 1/1")


def test_a_tensor_without_a_gradient_stops_the_run_by_name(tmp_path, monkeypatch):
    def with_idle(config):
        model, tokenizer = _built(config)
        model.model.idle = torch.nn.Linear(4, 4)  # of no use to the model
        return model, tokenizer

    _built = loop.build_model
    monkeypatch.setattr(loop, "build_model", with_idle)
    with pytest.raises(
        ValueError, match=r"model.idle.weight, model.idle.bias had no gradient in 3"
    ):
        loop.train(small_config(tmp_path))
    assert len(losses(tmp_path / "out")) == 2


def test_what_rounding_keeps_in_place_is_named(tmp_path, capfd):
    loop.train(small_config(tmp_path, lr=1e-12, warmup=0, steps=3))
    said = capfd.readouterr().err
    assert "Rounding keeps in place, at a rate of 1e-12: " in said
    assert "model.norm.weight" in said or "more" in said


NAMES = [
    (
        {"lora_targets": ("q_proj", "qq_proj")},
        r"Adapters on 'qq_proj': no layer has this name; did",
    ),
    ({"lora_also": ("emebd",)}, r"No parameter has 'emebd' in its name; did you mean embed"),
    ({"lora_targets": ("mlp",)}, r"Adapters on 'mlp': no linear layer has this name"),
    ({"lora_targets": ("embed_tokens",)}, r"share their weight \(tied embeddings\)"),
]


@pytest.mark.parametrize(("values", "message"), NAMES, ids=lambda v: str(v)[:24])
def test_names_of_adapters_match_something_or_the_run_does_not_start(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        loop.train(small_config(tmp_path, lora_rank=4, **values))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_adapters_on_stacked_experts_are_refused(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(mixtral(tmp_path / "moe"))
    with pytest.raises(
        ValueError, match=r"would leave out model.layers.\*.mlp.experts.gate_up_proj"
    ):
        add_adapters(model, 4, 8.0, ["q_proj", "gate_proj"])


def test_an_adapter_on_the_output_layer_trains_and_is_exported(tmp_path):
    model = small_model(tmp_path / "untied", tie_word_embeddings=False)
    config = small_config(tmp_path, model=str(model), lora_rank=4, lora_targets=("lm_head",))
    loop.train(dataclasses.replace(config, method="pi"))
    before, after = (load_file(f / "model.safetensors") for f in (model, tmp_path / "out"))
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])
    curve = losses(tmp_path / "out")
    assert curve[0] - curve[-1] > 0.01


# ----------------------------------------------------------- what is exported is what trained


def test_a_result_that_is_another_model_is_an_error_that_keeps_the_checkpoint(
    tmp_path, monkeypatch
):
    def other(folder, **kwargs):
        model, tokenizer = ctxbench.load_model(folder, **kwargs)
        with torch.no_grad():
            model.model.layers[0].self_attn.q_proj.weight.mul_(-1)
        return model, tokenizer

    monkeypatch.setattr(reopened, "load_model", other)
    with pytest.raises(ValueError, match=r"opened again, is another one than the one that trained"):
        loop.train(small_config(tmp_path, method="pi", steps=3, ema_decay=0.5))
    found = find_checkpoint(tmp_path / "out" / "checkpoints")
    assert found is not None
    assert found.step == 3
    assert not (tmp_path / "out" / "config.json").exists()


def test_the_output_is_neither_the_model_nor_among_the_data(tmp_path):
    config = small_config(tmp_path)
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="is the folder of the model"):
        loop.train(dataclasses.replace(config, output=config.model))
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    (tmp_path / "corpus").mkdir()
    small_data(tmp_path / "corpus" / "a.jsonl")
    inside = {"data": (str(tmp_path / "corpus"),), "output": str(tmp_path / "corpus" / "run")}
    with pytest.raises(ValueError, match="is in the folder of the data"):
        loop.train(dataclasses.replace(config, **inside))


@pytest.fixture(scope="module")
def longlora(tmp_path_factory):
    """A run of LongLoRA: adapters, and embeddings and norms whole."""
    folder = tmp_path_factory.mktemp("longlora")
    loop.train(small_config(folder, method="longlora", steps=4, warmup=0))
    return folder


def test_an_adapter_brings_what_trained_whole(longlora):
    base, _ = ctxbench.load_model(longlora / "model", "longlora", length=32)
    adapted = load_adapters(base, str(longlora / "out" / "adapter")).eval()
    merged, _ = ctxbench.load_model(longlora / "out")
    with torch.no_grad():
        found, wanted = adapted(IDS).logits, merged(IDS).logits
    assert float((found - wanted).abs().max()) < 1e-4  # sums in another order


def test_an_adapter_is_not_merged_twice(longlora):
    merged, _ = ctxbench.load_model(longlora / "out")
    with pytest.raises(ValueError, match="is in the model's weights already"):
        load_adapters(merged, str(longlora / "out" / "adapter"))


def test_what_trained_whole_belongs_to_its_model(longlora, tmp_path):
    other, _ = ctxbench.load_model(
        small_model(tmp_path / "padded", vocab_size=1344), "longlora", length=32
    )
    with pytest.raises(ValueError, match=r"trained_whole.safetensors holds .* \[1280, 32\], but"):
        load_adapters(other, str(longlora / "out" / "adapter"))


def test_a_padded_vocabulary_stays_beside_adapters(tmp_path):
    model = small_model(tmp_path / "padded", vocab_size=1344)
    config = small_config(tmp_path, model=str(model), method="pi", lora_rank=4, steps=3)
    loop.train(config)
    served = ExtendedHFLM(
        pretrained=str(model), method="pi", length=32, peft=f"{config.output}/adapter",
        device="cpu", dtype="float32",
    )  # fmt: skip
    assert served.hf_model.get_input_embeddings().weight.shape[0] == 1344


def test_perplexity_on_the_way_is_of_the_model_that_is_exported(tmp_path):
    config = small_config(
        tmp_path, method="pi", ema_decay=0.9, eval_data=str(tmp_path / "data.jsonl"),
        eval_lengths=(32,), eval_rows=4,
    )  # fmt: skip
    loop.train(config)
    last = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])
    model, tokenizer = ctxbench.load_model(config.output)
    data, loss = open_mixture(config.eval_data, tokenizer, seed=0), 0.0
    for number in range(4):
        ids = data.batch(number, 1, 32)["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1]
        loss += torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item() / 4
    assert math.log(last["perplexity_32"]) == pytest.approx(loss, abs=1e-4)


# ------------------------------------------------------------- numbers that mean one thing


def test_dynamic_scaling_of_a_models_own_stays_on(tmp_path):
    folder = small_model(tmp_path / "dynamic")
    config = json.loads((folder / "config.json").read_text())
    theta = config.pop("rope_parameters")["rope_theta"]
    config |= {"rope_theta": theta, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    (folder / "config.json").write_text(json.dumps(config))
    for length in (16, 64):
        plain = AutoModelForCausalLM.from_pretrained(folder).eval()
        model, _ = ctxbench.load_model(folder, "none", length=length)
        with torch.no_grad():
            assert torch.equal(model(IDS).logits, plain(IDS).logits), length


def test_a_factor_follows_the_length_until_it_is_part_of_a_model(tmp_path, caplog):
    model = AutoModelForCausalLM.from_pretrained(small_model(tmp_path / "memory"))
    ctxbench.extend(model, "pi", length=32)
    ctxbench.extend(model, "pi", length=128)
    assert method_of(model).factor == 8
    assert "factor=8.0 (factor=2.0 at the length before, 32)" in caplog.text
    first = loop.train(small_config(tmp_path, method="pi", steps=2, warmup=0))
    served, _ = ctxbench.load_model(first, length=64)
    assert method_of(served).factor == 2  # as trained
    second = small_config(
        tmp_path, model=str(first), method="pi", length=64, output=str(tmp_path / "second"),
        steps=2, warmup=0,
    )  # fmt: skip
    record = json.loads((loop.train(second) / "config.json").read_text())["ctxbench"]
    assert (record["options"]["factor"], record["trained_length"]) == (4, 64)


def test_an_option_that_was_given_stays(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(small_model(tmp_path / "model"))
    ctxbench.extend(model, "pi", length=32, factor=3.0)
    ctxbench.extend(model, "pi", length=128)
    assert method_of(model).factor == 3


CHANGES = ["data", "weights", "tokenizer"]


@pytest.mark.parametrize("changed", CHANGES)
def test_a_run_goes_on_by_content(tmp_path, monkeypatch, changed):
    """Copied and touched it goes on; with one other byte of data or model it is refused."""
    config = small_config(tmp_path, method="pi", lora_rank=4, save_every=2)
    with monkeypatch.context() as patch:
        patch.setattr("ctxbench.train.loop.learning_rate", interrupt_at(4))
        with pytest.raises(KeyboardInterrupt):
            loop.train(config)
    (tmp_path / "model").rename(tmp_path / "moved")
    (tmp_path / "data.jsonl").rename(tmp_path / "moved.jsonl")
    moved = dataclasses.replace(
        config, model=str(tmp_path / "moved"), data=(str(tmp_path / "moved.jsonl"),)
    )
    for file in (tmp_path / "moved.jsonl", *(tmp_path / "moved").iterdir()):
        os.utime(file)
    file = {
        "data": tmp_path / "moved.jsonl",
        "weights": tmp_path / "moved" / "model.safetensors",
        "tokenizer": tmp_path / "moved" / "tokenizer_config.json",
    }[changed]
    times, content = file.stat(), file.read_bytes()
    if changed == "weights":
        other = content[:-1] + bytes([content[-1] ^ 1])
    else:
        other = content.replace(b"return", b"retorn") if changed == "data" else content + b"\n"
    file.write_bytes(other)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # its time says nothing
    what = "other data" if changed == "data" else "another model to begin with"
    with pytest.raises(ValueError, match=f"was made with {what}"):
        loop.train(moved)
    file.write_bytes(content)
    loop.train(moved)
    assert len(losses(tmp_path / "out")) == 6


def test_a_sliding_window_is_said_with_both_numbers(tmp_path, caplog):
    config = MistralConfig(
        vocab_size=1280, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=16,
        sliding_window=11,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    load_tokenizer(resolve_model("mini")).save_pretrained(tmp_path / "model")
    ctxbench.load_model(tmp_path / "model", "ntk", length=517)
    assert "sliding_window=11" in caplog.text
    assert "length=517" in caplog.text


# ------------------------------------------------------------------------ inputs that count


def rows_of_ids(file: Path, **columns) -> str:
    row = {"input_ids": [5, 6, 7, 8, 0, 0], **columns}
    file.write_text("".join(json.dumps(row) + "\n" for _ in range(20)))
    return str(file)


def test_labels_and_masks_of_token_ids_count(tmp_path, tokenizer):
    masks = {"attention_mask": [1, 1, 1, 1, 0, 0], "labels": [-100, -100, 7, 8, -100, -100]}
    data = open_mixture([rows_of_ids(tmp_path / "ids.jsonl", **masks)], tokenizer, seed=0)
    batch = data.batch(0, 1, 8)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 5, 6, 7, 8]]
    assert batch["labels"].tolist() == [[-100, -100, 7, 8, -100, -100, 7, 8]]
    assert scored_tokens(batch)[1].sum() == 4
    assert data.notes == [
        f"{tmp_path / 'ids.jsonl'}: 40 of 80 tokens are not scored, as its labels say; padding "
        "(attention_mask 0) is left out."
    ]
    again = open_mixture([str(tmp_path / "ids.jsonl")], tokenizer, seed=0)  # from the cache
    assert torch.equal(again.batch(0, 1, 8)["labels"], batch["labels"])


def test_columns_that_say_nothing_change_nothing(tmp_path, tokenizer):
    plain = {
        "attention_mask": [1] * 6,
        "labels": [5, 6, 7, 8, 0, 0],
        "position_ids": list(range(6)),
    }
    data = open_mixture([rows_of_ids(tmp_path / "ids.jsonl", **plain)], tokenizer, seed=0)
    assert scored_tokens(data.batch(0, 1, 12))[1].sum() == 11
    assert data.notes == []


IGNORED = [
    ({"labels": [5, 6, 7, 9, 0, 0]}, r"ids.jsonl line 1: labels is 9 at token 3"),
    ({"attention_mask": [1, 1, 2, 2, 2, 2]}, r"attention_mask is 2 at token 2"),
    ({"position_ids": [0, 1, 0, 1, 2, 3]}, r"position_ids is 0 at token 2"),
    ({"loss_mask": [1, 0.5, 1, 1, 1, 1]}, r"loss_mask is 0.5 at token 1"),
    ({"labels": [5, 6]}, r"labels of 2 entries beside 6 input_ids"),
]


@pytest.mark.parametrize(("columns", "message"), IGNORED, ids=lambda v: str(v)[:24])
def test_columns_that_would_be_ignored_are_an_error(tmp_path, tokenizer, columns, message):
    with pytest.raises(ValueError, match=message):
        open_mixture([rows_of_ids(tmp_path / "ids.jsonl", **columns)], tokenizer, seed=0)


def test_updates_in_which_nothing_is_scored_are_an_error(tmp_path):
    data = rows_of_ids(tmp_path / "ids.jsonl", labels=[-100] * 6)
    with pytest.raises(ValueError, match="No token of update 1 is scored"):
        loop.train(small_config(tmp_path, data=data))


def test_data_that_is_read_again_is_said(tmp_path, capfd):
    small_data(tmp_path / "few.jsonl", documents=6)
    loop.train(small_config(tmp_path, data=str(tmp_path / "few.jsonl")))
    said = capfd.readouterr().err
    found = re.search(r"few.jsonl has (\d+) rows of 32 tokens, and the run reads 24: each", said)
    assert found is not None, said
    assert f"each about {24 / int(found[1]):.1f} times" in said


def test_what_of_a_folder_is_not_read_is_said(tmp_path, tokenizer, caplog):
    folder = tmp_path / "corpus"
    folder.mkdir()
    small_data(folder / "a.jsonl")
    alone = open_mixture([str(folder / "a.jsonl")], tokenizer, seed=0)
    (folder / "README.txt").write_text("About these data. " * 100)
    (folder / "more.json").write_text('[{"text": "x"}]')
    whole = open_mixture([str(folder)], tokenizer, seed=0)
    assert whole.identity == alone.identity
    assert "these are not read: README.txt, more.json. Read are: a.jsonl." in caplog.text


def test_a_tracker_that_is_not_installed_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="package of swanlab is not installed"):
        loop.train(small_config(tmp_path, trackers=("swanlab",)))


# ------------------------------------------------------------------------- work that is kept


class _Once(torch.autograd.Function):
    calls = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        _Once.calls += 1
        return gradient * float("nan") if _Once.calls == 4 else gradient


def test_a_gradient_that_is_no_number_stops_before_it_is_applied(tmp_path, monkeypatch):
    _Once.calls = 0

    def trainable(self, model):
        hook = lambda module, args, output: _Once.apply(output) if output.requires_grad else output  # noqa: E731
        model.base_model.norm.register_forward_hook(hook)
        return model

    monkeypatch.setattr(PositionInterpolation, "trainable", trainable)
    config = small_config(tmp_path, method="pi", save_every=2, micro_batch_size=4)
    with pytest.raises(ValueError, match="The norm of the gradients is nan at step 4"):
        loop.train(config)
    files = list((tmp_path / "out").rglob("*.safetensors"))
    assert files
    for file in files:
        assert all(torch.isfinite(tensor).all() for tensor in load_file(file).values()), file


def test_a_checkpoint_with_no_numbers_is_skipped_by_name(tmp_path, capfd):
    config = small_config(tmp_path, save_every=2, keep_checkpoints=3)
    loop.train(config)
    folder = tmp_path / "out" / "checkpoints" / "step_00000006"
    _poison(folder)
    said = []
    found = find_checkpoint(tmp_path / "out" / "checkpoints", said.append)
    assert found is not None
    assert found.step == 4
    assert "entries that are no numbers" in said[0]


def _poison(folder: Path) -> None:
    """Make one entry NaN, as version 0.1.0 could have written it, manifest and all."""
    from safetensors.torch import save_file

    from ctxbench.train.checkpoint import _describe

    file = folder / "state-00000.safetensors"
    tensors = load_file(file)
    tensors["weights.model.norm.weight"][0] = float("nan")
    save_file(tensors, file, metadata={"begins": "{}"})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[file.name] = _describe(file)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("part", ["eval", "data", "stage"])
def test_a_source_without_a_whole_row_is_found_before_the_first_update(tmp_path, part):
    small_data(tmp_path / "short.jsonl", documents=1)
    short = str(tmp_path / "short.jsonl")
    values = {
        "eval": {"eval_data": short, "eval_lengths": (4096,)},
        "data": {"data": short, "length": 64},
        "stage": {"stages": [{"length": 32, "steps": 1, "data": [short]}]},
    }[part]
    with pytest.raises(ValueError, match=r"short.jsonl has 2\d tokens, less than one row of"):
        loop.train(small_config(tmp_path, **values))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_one_process_may_tokenise_for_longer_than_the_others_wait(tmp_path):
    """Collectives of the group time out after seconds; what one does alone does not."""
    launch_ranks(tmp_path, 2, {"method": "pi", "slow_reading": 8, "group_timeout": 4})
    assert len(losses(tmp_path / "out")) == 6


def test_a_run_that_does_not_fit_the_disk_is_refused_before_it_starts(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr("ctxbench.train.before.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(
        ValueError, match=r"There is no room in .*: 3 checkpoints of .* MiB are free"
    ):
        loop.train(small_config(tmp_path, save_every=1))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_a_disk_that_fills_up_is_one_message_and_keeps_what_is_whole(tmp_path):
    """For real: the system refuses files beyond a size."""
    small_config(tmp_path)
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000));"
        "from ctxbench.train.cli import main; main()"
    )
    arguments = [
        "--model", "model", "--data", "data.jsonl", "--output", "out", "--length", "32",
        "--tokens", "768", "--batch-size", "4", "--warmup", "0", "--dtype", "fp32",
        "--save-every", "2",
    ]  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 2, run.stderr[-2000:]
    assert "Traceback" not in run.stderr
    assert "ctxbench-train: There is no room to write" in run.stderr
    assert find_checkpoint(tmp_path / "out" / "checkpoints") is None


# ------------------------------------------------------------- messages, not tracebacks


def test_yarn_runs_on_mixtral(tmp_path):
    folder = mixtral(tmp_path / "moe")
    config = json.loads((folder / "config.json").read_text())
    config.pop("head_dim", None)  # as it is published
    (folder / "config.json").write_text(json.dumps(config))
    model, _ = ctxbench.load_model(folder, "yarn", length=64)
    own, _ = method_of(model).frequencies(model.config, 64)
    found = model.model.rotary_emb.inv_freq.double()
    assert torch.allclose(found, own, rtol=1e-6, atol=0)  # float32


@pytest.mark.parametrize("kind", ["clex", "su"])
def test_a_scaling_that_transformers_does_not_know_is_named(tmp_path, kind):
    folder = small_model(tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    config.pop("rope_parameters")
    config["rope_scaling"] = {"type": kind, "factor": 2.0}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"a rotary scaling of type '{kind}', which"):
        ctxbench.load_model(folder, "none")


def test_a_peft_model_is_extended(tmp_path):
    folder = small_model(tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(folder)
    inner = AutoModelForCausalLM.from_pretrained(folder)
    with old_name_asked():
        adapted = peft.get_peft_model(inner, peft.LoraConfig(target_modules=["q_proj"]))
    assert ctxbench.extend(adapted, "yarn", length=32) is adapted
    ctxbench.extend(plain, "yarn", length=32)
    with torch.no_grad():
        assert torch.equal(adapted(IDS).logits, plain(IDS).logits)


def test_a_saved_dataset_without_the_split_names_those_it_has(tmp_path, tokenizer):
    rows = datasets.Dataset.from_list([{"text": "a"}])
    datasets.DatasetDict({"validation": rows}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"has no split 'train', only validation"):
        open_mixture([str(tmp_path / "saved")], tokenizer, seed=0)


def test_one_id_beyond_the_vocabulary_is_found_anywhere(tmp_path, tokenizer):
    ids = np.full(4_500_000, 5, np.uint16)
    ids[1_400_000] = 60_000
    ids.tofile(tmp_path / "ids.bin")
    with pytest.raises(ValueError, match=r"ids.bin' holds the token ids 5 to 60000"):
        open_mixture([str(tmp_path / "ids.bin")], tokenizer, seed=0)


BEFORE_TRAINING = [
    ({"attention": "flash_attention_2"}, "need a package that is not installed"),
    ({"method": "landmark", "document_mask": True}, "leaves position_ids of the data as they are"),
]


@pytest.mark.parametrize(("values", "message"), BEFORE_TRAINING, ids=["attention", "landmark"])
def test_what_cannot_train_is_one_message(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        loop.train(small_config(tmp_path, length=64, **values))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_json_that_is_nested_too_deep_is_named(tmp_path, tokenizer):
    deep = '{"text": ' + "[" * 200_000 + "]" * 200_000 + "}\n"
    (tmp_path / "deep.jsonl").write_text(deep)
    with pytest.raises(ValueError, match=r"deep.jsonl line 1 is not a JSON object"):
        open_mixture([str(tmp_path / "deep.jsonl")], tokenizer, seed=0)


def test_a_tokenizer_without_eos_is_refused_before_training(tmp_path):
    config = small_config(tmp_path, init="random")
    file = tmp_path / "model" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    kept = {k: v for k, v in settings.items() if k not in ("eos_token", "pad_token")}
    file.write_text(json.dumps(kept))
    (tmp_path / "model" / "special_tokens_map.json").unlink(missing_ok=True)
    for init in ("random", "pretrained"):
        with pytest.raises(ValueError, match="The tokenizer names no EOS token"):
            loop.train(dataclasses.replace(config, init=init))
