"""Sliding windows of a model's own: told, taken away, or left alone."""

import copy

import pytest
import torch

from ctxbench.methods.extension import extension_of
from ctxbench.methods.record import read_record
from ctxbench.models.ctxext import CtxExt
from ctxbench.models.loading import extend, load_model, save_model
from tests.methods.architectures import model_of, tiny
from tests.train.small import small_model

IDS = torch.randint(3, 150, (1, 700), generator=torch.Generator().manual_seed(0))


def saved(folder, kind, **more):
    """A small model of a kind in a folder, with a tokenizer."""
    small_model(folder)
    for file in (*folder.glob("*.safetensors"), folder / "config.json"):
        file.unlink()
    model_of(tiny(kind, vocab_size=1280, **more)).save_pretrained(folder)
    return folder


def far_effect(model):
    """How much the last logits change with a token that lies 600 back."""
    other = IDS.clone()
    other[0, 99] = (other[0, 99] + 1) % 100 + 3
    with torch.no_grad():
        return (model(IDS).logits[0, -1] - model(other).logits[0, -1]).abs().max()


def test_a_window_that_hides_the_extension_is_taken_away(tmp_path):
    folder = saved(tmp_path / "base", "mistral", sliding_window=64)
    hidden, _ = load_model(folder, "yarn", length=2048)
    assert far_effect(hidden) == 0
    whole, tokenizer = load_model(folder, "yarn", length=2048, sliding_window="none")
    assert far_effect(whole) > 0
    save_model(whole, tokenizer, tmp_path / "saved")
    again, _ = load_model(tmp_path / "saved")
    with torch.no_grad():
        assert again(IDS).logits.equal(whole(IDS).logits)


def test_results_say_which_windows_are_there_and_which_were_taken_away(tmp_path):
    folder = saved(tmp_path / "base", "mistral", sliding_window=64)
    given = {"pretrained": str(folder), "method": "yarn", "length": 2048, "batch_size": 1}
    found = CtxExt(**given).attached()
    assert found["sliding_window"] == "64 tokens in every layer"
    found = CtxExt(**given, sliding_window="none").attached()
    assert found["sliding_window_removed"] == "64 tokens in every layer"
    assert "sliding_window" not in found


def test_an_attention_method_needs_a_layer_that_sees_the_whole_text(tmp_path):
    folder = saved(tmp_path / "base", "mistral", sliding_window=64)
    with pytest.raises(ValueError, match=r"every layer .* sliding_window=none"):
        load_model(folder, "self_extend", length=2048)
    model, _ = load_model(folder, "self_extend", length=2048, sliding_window="none")
    assert extension_of(model).proof.layers == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("kind", "asked", "message"),
    [
        ("llama", "none", "has no sliding window"),
        ("llama", "4096", "sliding_window='4096' is not allowed"),
        ("gemma3_text", "none", "rotary settings of their own"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, kind, asked, message):
    folder = saved(tmp_path / "base", kind)
    with pytest.raises(ValueError, match=message):
        load_model(folder, "yarn", length=2048, sliding_window=asked)


# ------------------------------------------------------------------- layers=full


@pytest.mark.parametrize("method", ["yarn", "dynamic_ntk"])
def test_sliding_layers_keep_their_angles(tmp_path, method):
    folder = saved(tmp_path / "base", "gemma2")  # layers 0 and 2 slide
    model, tokenizer = load_model(folder, method, length=2048, layers="full")
    assert extension_of(model).proof.layers == (1, 3)
    every, _ = load_model(folder, method, length=2048)
    assert extension_of(every).proof.layers == (0, 1, 2, 3)
    plain, _ = load_model(folder)
    inputs = {}

    def angles(model, number):
        def keep(layer, args, kwargs):
            inputs[id(model), number] = kwargs["position_embeddings"]

        hook = model.model.layers[number].register_forward_pre_hook(keep, with_kwargs=True)
        with torch.no_grad():
            model(IDS)
        hook.remove()
        return inputs[id(model), number][0]

    assert angles(model, 0).allclose(angles(plain, 0), atol=1e-5)
    assert angles(model, 1).allclose(angles(every, 1), atol=1e-3)  # transformers' are float32
    assert not angles(model, 1).allclose(angles(plain, 1), atol=1e-2)
    save_model(model, tokenizer, tmp_path / "saved")
    again, _ = load_model(tmp_path / "saved")
    assert read_record(again.config).layers == "full"
    with torch.no_grad():
        assert again(IDS).logits.equal(model(IDS).logits)


def test_models_with_settings_for_each_type_do_so_anyway():
    config = tiny("gemma3_text")
    one = extend(model_of(copy.deepcopy(config)), "yarn", length=2048, layers="full")
    other = extend(model_of(config), "yarn", length=2048)
    with torch.no_grad():
        assert one(IDS % 160).logits.equal(other(IDS % 160).logits)


@pytest.mark.parametrize(
    ("kind", "layers", "message"),
    [
        ("llama", "full", "no layer of this llama model has a sliding window"),
        ("mistral", "full", "every layer of this mistral model has a sliding window"),
        ("gemma2", "some", "layers='some' is not allowed"),
    ],
)
def test_layers_that_make_no_sense_are_refused(kind, layers, message):
    with pytest.raises(ValueError, match=message):
        extend(model_of(tiny(kind)), "yarn", length=2048, layers=layers)
