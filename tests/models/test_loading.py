"""Checkpoints: records, extrapolation, adoption, refusal."""

import json
import shutil

import lm_eval
import pytest
import torch
from lm_eval.tasks import TaskManager

import ctxbench
from ctxbench.core.assets import resolve_model
from ctxbench.methods.attach import method_of
from ctxbench.methods.record import read_record
from ctxbench.models.choosing import choose_method
from ctxbench.models.ctxext import CtxExt
from ctxbench.models.loading import extend, load_model, load_tokenizer
from ctxbench.tasks.leaf_files import tasks_path
from ctxbench.tasks.model_window import model_window
from ctxbench.tasks.tokenizer import load_tokenizer as load_task_tokenizer
from tests.methods.tiny import tiny_config, tiny_model


@pytest.fixture
def saved(tmp_path):
    """The mini base extended by PI to 1024 and saved as trained at that length."""
    model, tokenizer = ctxbench.load_model("mini", "pi", length=1024)
    ctxbench.save_model(model, tokenizer, tmp_path / "pi", trained_length=1024)
    return tmp_path / "pi"


def test_a_record_is_followed(saved):
    model, _ = ctxbench.load_model(saved)
    assert method_of(model).factor == 4.0
    assert method_of(model).length == 1024
    assert read_record(model.config).trained_length == 1024


def test_a_length_beyond_training_is_extrapolation(saved):
    model, _ = ctxbench.load_model(saved, "pi", length=4096)
    assert method_of(model).factor == 4.0
    assert model.config.max_position_embeddings == 4096
    assert read_record(model.config).trained_length == 1024


def test_other_options_need_override_and_are_recorded(saved):
    with pytest.raises(ValueError, match=r"made with method=pi and factor=4.0, but factor=8"):
        ctxbench.load_model(saved, factor=8)
    model, _ = ctxbench.load_model(saved, factor=8, override=True)
    assert method_of(model).factor == 8
    assert read_record(model.config).overridden == {"factor": 4.0}


def test_another_method_needs_override(saved):
    with pytest.raises(ValueError, match=r"made with method=pi .* but method=yarn"):
        ctxbench.load_model(saved, "yarn")
    model, _ = ctxbench.load_model(saved, "yarn", override=True)
    assert read_record(model.config).overridden["method"] == "pi"
    assert model.config.rope_parameters["rope_type"] == "yarn"
    base, _ = ctxbench.load_model("mini", "yarn", length=1024)
    assert model.config.rope_parameters == base.config.rope_parameters


def test_extending_twice_in_memory_is_refused():
    model = ctxbench.extend(tiny_model(), "pi", length=256)
    with pytest.raises(ValueError, match="made with method=pi"):
        ctxbench.extend(model, "ntk", length=256)


def published(**scaling):
    config = tiny_config()
    config.rope_parameters = {**config.rope_parameters, **scaling}
    return config


LINEAR = {"rope_type": "linear", "factor": 4.0}


def test_a_model_loaded_as_it_is_can_be_extended():
    model = extend(load_model("mini")[0], "pi", length=1024)
    loaded, _ = load_model("mini", "pi", length=1024)
    ids = torch.arange(3, 403)[None]
    assert torch.equal(model(ids).logits, loaded(ids).logits)


@pytest.mark.parametrize("trained", [None, 256])
def test_a_base_of_our_own_training_can_be_extended(tmp_path, trained):
    """As `mini-base` leaves it: method none, trained within its window."""
    model, tokenizer = ctxbench.load_model("mini", "none", length=512)
    ctxbench.save_model(model, tokenizer, tmp_path, trained_length=trained)
    again, _ = ctxbench.load_model(tmp_path, "pi", length=1024)
    record = read_record(again.config)
    assert (record.original_length, record.options["factor"]) == (256, 4.0)
    assert (record.trained_length, record.overridden) == (None, {})


def test_a_trained_control_is_not_extended_by_accident(tmp_path):
    model, tokenizer = ctxbench.load_model("mini", "none", length=1024)
    ctxbench.save_model(model, tokenizer, tmp_path, trained_length=1024)
    with pytest.raises(ValueError, match=r"made with method=none .* but method=pi"):
        ctxbench.load_model(tmp_path, "pi", length=2048)


def test_a_foreign_extended_checkpoint_is_not_extended_again():
    with pytest.raises(ValueError, match=r"already extended.*rope_type 'linear'.*adopt=true"):
        choose_method(published(**LINEAR), "yarn", length=256)
    method, record = choose_method(published(**LINEAR), "none", length=256)
    assert method.name == "none"
    assert record.rope_parameters["factor"] == 4.0


def test_adoption():
    method, record = choose_method(
        published(**LINEAR), "pi", adopt=True, trained_length=256, length=512
    )
    assert (method.factor, method.length) == (4.0, 512)
    assert (record.original_length, record.trained_length, record.adopted) == (64, 256, True)
    with pytest.raises(ValueError, match=r"linear.*factor 4.0.*factor 2.0"):
        choose_method(published(**LINEAR), "pi", adopt=True, trained_length=128)
    with pytest.raises(ValueError, match="needs both method=NAME and trained_length"):
        choose_method(published(**LINEAR), "pi", adopt=True)
    config = published()
    config.max_position_embeddings = 256  # its window was overwritten when it was trained
    with pytest.raises(ValueError, match="original_length=N"):
        choose_method(config, "ntk", adopt=True, trained_length=256)
    method, _ = choose_method(
        config, "ntk", adopt=True, trained_length=256, original_length=64, alpha=13
    )
    assert method.alpha == 13


def test_statements_without_adopt_are_not_ignored(saved):
    with pytest.raises(ValueError, match=r"trained_length=2048 .* needs adopt=true"):
        ctxbench.load_model("mini", "pi", length=2048, trained_length=2048)
    with pytest.raises(ValueError, match="adopt=true is for checkpoints without a record"):
        ctxbench.load_model(saved, "pi", adopt=True, trained_length=1024)
    with pytest.raises(ValueError, match="override=true replaces recorded options"):
        ctxbench.load_model("mini", "pi", length=2048, override=True)


def test_a_model_without_rotary_embedding():
    from transformers import GPT2Config

    with pytest.raises(ValueError, match="no rotary position embedding"):
        choose_method(GPT2Config(), "pi", length=4096)


def test_paths_and_dtypes(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        ctxbench.load_model(str(tmp_path / "nowhere"), "pi", length=2048)
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        ctxbench.load_model(str(tmp_path))
    with pytest.raises(ValueError, match=r"dtype='int3'.*Allowed: auto, float32"):
        ctxbench.load_model("mini", dtype="int3")
    with pytest.raises(ValueError, match="dtype='int32'"):
        ctxbench.load_model("mini", dtype="int32")


def test_a_damaged_config_is_named(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(resolve_model("mini"), folder)
    (folder / "config.json").write_text("{ not json")
    with pytest.raises((ValueError, FileNotFoundError), match="config"):
        ctxbench.load_model(folder)
    config = json.loads((folder.parent / "copy" / "tokenizer_config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot be read"):
        ctxbench.load_model(folder)


def test_weights_load_in_half_precision():
    model, _ = ctxbench.load_model("mini", "dynamic_ntk", length=2048, dtype="bfloat16")
    assert model.dtype == torch.bfloat16


NEW_METHOD = '''
"""Halve every frequency. Source: https://example.org, made up for a test, 2023."""
from dataclasses import dataclass
from ctxbench.methods.rotary import PositionMethod, inverse_frequencies, rotary_base, rotary_dim

@dataclass(frozen=True, kw_only=True)
class Half(PositionMethod):
    """Halve every frequency."""
    times: float = 1.0

    def scaled(self, config, current_length):
        theta = inverse_frequencies(rotary_dim(config), rotary_base(config))
        return theta / (2 * self.times), 1.0
'''


def test_a_new_method_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "halve.py").write_text(NEW_METHOD)
    monkeypatch.setenv("CTXBENCH_METHODS", str(tmp_path))
    assert "halve" in ctxbench.list_methods()
    model, tokenizer = ctxbench.load_model("mini", "halve", length=512, times=2)
    ids = torch.tensor([list(range(300))])
    with torch.no_grad():
        expected = model(ids).logits
        ctxbench.save_model(model, tokenizer, tmp_path / "saved")
        again, _ = ctxbench.load_model(tmp_path / "saved")
        assert torch.equal(again(ids).logits, expected)
    assert method_of(again).times == 2.0
    results = lm_eval.simple_evaluate(
        model="ctxext",
        model_args={"pretrained": "mini", "method": "halve", "length": 512},
        tasks=["mini_needle_128"],
        task_manager=TaskManager(include_path=str(tasks_path()), include_defaults=False),
        limit=2,
        bootstrap_iters=0,
    )
    assert results["config"]["ctxbench"]["method"] == "halve"
    monkeypatch.delenv("CTXBENCH_METHODS")
    with pytest.raises(ValueError, match=r"no method 'halve'.*CTXBENCH_METHODS"):
        ctxbench.load_model(tmp_path / "saved")


@pytest.mark.parametrize("architecture", ["phi3", "llama"])
@pytest.mark.parametrize("name", ["dynamic_ntk", "self_extend"])
def test_a_refused_config_hides_neither_tokenizer_nor_window(architecture, name, tmp_path, caplog):
    """Phi-3's config does not even load under a rope type that transformers does not know."""
    _, tokenizer = ctxbench.load_model("mini")
    model = tiny_model(architecture, vocab_size=len(tokenizer), pad_token_id=0)
    folder = str(ctxbench.save_model(ctxbench.extend(model, name, length=512), tokenizer, tmp_path))
    for found in (
        load_task_tokenizer(folder),
        load_tokenizer(folder),
        CtxExt(folder, add_bos_token=False).tokenizer,
    ):
        assert found("import os").input_ids == tokenizer("import os").input_ids
    assert model_window({"pretrained": folder}) == 512
    assert "rope_type" not in caplog.text
