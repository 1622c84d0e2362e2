"""The field's usual errors are found before time is spent."""

import json
import logging
import shutil

import pytest
import torch
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import ctxbench
from ctxbench.core.assets import resolve_model
from ctxbench.methods.attach import method_of
from ctxbench.models.checks import check_bos
from ctxbench.models.ctxext import CtxExt
from tests.methods.tiny import tiny_model

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


def llama_tokenizer(folder, *, adds_bos: bool, extra: int = 0, **config):
    """Saves a word tokenizer with Llama's special tokens; returns it loaded again."""
    words = ["<s>", "</s>", "<unk>", "A", "text", "."] + [f"w{i}" for i in range(90 + extra)]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds_bos:
        raw.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="</s>", **config,
    )  # fmt: skip
    made.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def llama(tmp_path):
    """A tiny Llama checkpoint without a tokenizer."""
    folder = tmp_path / "llama"
    tiny_model().save_pretrained(folder)
    return folder


def test_a_length_beyond_the_window_needs_a_method_by_name():
    words = "length=1024, but the model's window is 256 tokens and no method was named.*method=none"
    with pytest.raises(ValueError, match=words):
        ctxbench.load_model("mini", length=1024)
    with pytest.raises(ValueError, match=words):
        CtxExt(pretrained="mini", length="1k")
    with pytest.raises(ValueError, match="the model's window is 64"):
        ctxbench.extend(tiny_model(), None, length=128)
    assert CtxExt(pretrained="mini", length=128).max_length == 128
    assert CtxExt(pretrained="mini", method="none", length="1k").max_length == 1024


def test_a_checkpoint_of_none_still_extrapolates(tmp_path):
    ctxbench.save_model(*ctxbench.load_model("mini", "none", length=512), tmp_path)
    model, _ = ctxbench.load_model(tmp_path, length=1024)
    assert method_of(model).length == 1024


@pytest.mark.parametrize("name", ["none", "self_extend", "pi"])
def test_rounded_frequencies_are_made_anew(name):
    exact = ctxbench.extend(tiny_model(), name, length=128)
    cast = ctxbench.extend(tiny_model().to(torch.bfloat16), name, length=128)
    frequencies = [dict(model.named_buffers()) for model in (exact, cast)]
    names = [name for name in frequencies[0] if name.endswith("inv_freq")]
    assert names
    for name in names:
        assert frequencies[0][name].equal(frequencies[1][name])


def test_a_tokenizer_with_more_tokens_than_embeddings(llama):
    llama_tokenizer(llama, adds_bos=True, extra=20)
    with pytest.raises(ValueError, match="has 116 tokens, the model has embeddings for 100"):
        ctxbench.load_model(llama)
    with pytest.raises(ValueError, match=r"tokenizer has 1280 tokens.*tokenizer=FOLDER_OR_ID"):
        CtxExt(pretrained=str(llama), tokenizer="mini")


def test_the_landmark_token_is_no_other_token(tmp_path):
    with pytest.raises(ValueError, match=r"token_id=7 is .* not the landmark.*token_id=1280"):
        ctxbench.load_model("mini", "landmark", length=1024, token_id=7)
    ctxbench.save_model(*ctxbench.load_model("mini", "landmark", length=1024), tmp_path)
    _, tokenizer = ctxbench.load_model(tmp_path)
    assert len(tokenizer) == 1281


def test_a_missing_bos(llama, tmp_path):
    llama_tokenizer(llama, adds_bos=False)
    with pytest.raises(ValueError, match=r"without the BOS token <s>.*Give add_bos_token=True"):
        CtxExt(pretrained=str(llama))
    assert CtxExt(pretrained=str(llama), add_bos_token=False).tok_encode("A text .") == [3, 4, 5]
    llama_tokenizer(llama, adds_bos=True)
    assert CtxExt(pretrained=str(llama)).tok_encode("A text .") == [0, 3, 4, 5]
    phi = tmp_path / "other"  # a family that has a BOS and does not use it
    tiny_model("phi3").save_pretrained(phi)
    llama_tokenizer(phi, adds_bos=False)
    assert CtxExt(pretrained=str(phi)).tok_encode("A text .") == [3, 4, 5]


def test_the_advice_about_bos_helps(llama):
    llama_tokenizer(llama, adds_bos=False)
    lm = CtxExt(pretrained=str(llama), add_bos_token=True)
    assert lm.tok_encode("A text .") == [0, 3, 4, 5]
    with pytest.raises(ValueError, match="does not reach this tokenizer"):
        check_bos(lm.hf_model.config, lm.tokenizer, [3, 4, 5], True)


def chat_model(folder):
    shutil.copytree(resolve_model("mini"), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": CHAT}))
    return CtxExt(pretrained=str(folder))


def ask(text: str) -> Instance:
    return Instance("generate_until", {}, (text, {"until": [], "max_gen_toks": 2}), 0, ("t", 0, 1))


def test_a_chat_model_without_its_template_is_told_once(tmp_path, caplog):
    lm = chat_model(tmp_path / "chat")
    with caplog.at_level(logging.WARNING, "ctxbench"):
        lm.generate_until([ask("x")])
        lm.generate_until([ask("y")])
    assert caplog.text.count("has a chat template and the prompts come without it") == 1
    caplog.clear()
    lm = chat_model(tmp_path / "again")
    prompt = lm.apply_chat_template([{"role": "user", "content": "x"}])
    with caplog.at_level(logging.WARNING, "ctxbench"):
        lm.generate_until([ask(prompt)])
    assert "chat template" not in caplog.text


def test_a_template_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match="has no chat template: it is a base model"):
        CtxExt(pretrained="mini").apply_chat_template([{"role": "user", "content": "x"}])


def test_a_budget_that_does_not_fit_is_found_before_any_prompt_is_run(monkeypatch):
    lm = CtxExt(pretrained="mini")
    monkeypatch.setattr(lm.generator, "generate", lambda *a: pytest.fail("time was spent"))
    fits, not_ = ask("x"), ask("x")
    not_.arguments = ("x", {"until": [], "max_gen_toks": 300})
    with pytest.raises(ValueError, match="generates up to 300 tokens, which leaves no room"):
        lm.generate_until([fits, not_])


def test_a_record_of_a_method_that_is_not_installed(tmp_path):
    ctxbench.save_model(*ctxbench.load_model("mini", "pi", length=512), tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    for record, words in (
        (
            {**saved["ctxbench"], "method": "pj"},
            "no method 'pj'; did you mean pi.*CTXBENCH_METHODS",
        ),
        ({**saved["ctxbench"], "options": {"alpha": 2}}, "method=pi: 'alpha' is not a setting"),
        ({**saved["ctxbench"], "version": 99}, "reads up to 1. Install a newer"),
        ({"made_by": "someone else"}, "damaged ctxbench record"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**saved, "ctxbench": record}))
        with pytest.raises(ValueError, match=words):
            ctxbench.load_model(tmp_path)
