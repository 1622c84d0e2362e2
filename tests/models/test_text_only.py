"""The text part of checkpoints that read pictures too: opened alone, or refused in one line."""

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

from ctxbench.methods.extension import extension_of
from ctxbench.models.ctxext import CtxExt
from ctxbench.models.loading import extend, load_model, save_model
from tests.methods.architectures import NEEDS, tiny_of
from tests.train.small import small_model

VISION = {
    **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
}
QWEN = {"depth": 1, "embed_dim": 32, "num_heads": 2, "out_hidden_size": 64}
IDS = torch.randint(3, 150, (1, 60), generator=torch.Generator().manual_seed(0))


def wrapper(kind, folder):
    """Save a small model that reads pictures, with a tokenizer; return its folder and model."""
    default = CONFIG_MAPPING[kind]()
    own, more = default.get_text_config(), QWEN if "qwen" in kind else {}
    text = tiny_of(type(own), {**NEEDS.get(own.model_type, {}), "vocab_size": 1280})
    vision = type(default.vision_config)(**{**VISION, **more})
    config = type(default)(text_config=text.to_dict(), vision_config=vision.to_dict())
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    small_model(folder)  # its tokenizer
    for file in (*folder.glob("*.safetensors"), folder / "config.json"):
        file.unlink()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", ["gemma3", "mistral3", "llava"])
def test_the_text_part_runs_alone(kind, tmp_path, caplog):
    model = wrapper(kind, tmp_path / "base")
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
    ours, tokenizer = load_model(tmp_path / "base", "none", dtype=torch.float32)
    assert "Its text part" in caplog.text
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS).logits, expected, rtol=0, atol=1e-5)
    longer, _ = load_model(tmp_path / "base", "yarn", length=2048, dtype=torch.float32)
    assert extension_of(longer).proof.state == "passed"
    save_model(longer, tokenizer, tmp_path / "saved")
    again, _ = load_model(tmp_path / "saved", dtype=torch.float32)
    with torch.no_grad():
        assert again(IDS).logits.equal(longer(IDS).logits)
    lm = CtxExt(pretrained=str(tmp_path / "base"), method="yarn", length=2048, batch_size=1)
    assert lm.attached()["proof"] == "passed"


def test_a_text_part_that_has_no_model_is_refused_in_one_line(tmp_path):
    wrapper("qwen2_5_vl", tmp_path / "base")
    with pytest.raises(
        ValueError, match=r"qwen2_5_vl model, .* text part alone \(qwen2_5_vl_text\)"
    ) as e:
        load_model(tmp_path / "base", "yarn", length=2048)
    assert "\n" not in str(e.value)


def test_a_whole_model_in_memory_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"reads more than text\. Save it and open"):
        extend(wrapper("llava", tmp_path / "base"), "yarn", length=2048)
