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
from ctxbench.models.finite import FiniteLogits, NotFiniteError, check_scores
from ctxbench.models.requests import GenerationRequest, Origin, ScoringRequest
from ctxbench.models.windows import rolling_windows
from ctxbench.validate.tiny import tiny_model

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


# ----------------------------------------------------------------- templates and messages

NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)


def messages(*roles):
    return [{"role": role, "content": f"{role} text"} for role in roles]


def test_a_system_message_that_a_template_does_not_know_is_not_dropped(caplog):
    lm = CtxExt("mini")
    lm.tokenizer.chat_template = NO_SYSTEM
    for _ in range(2):
        prompt = lm.apply_chat_template(messages("system", "user"))
        assert prompt == "<user>system text\n\nuser text"
    assert caplog.text.count("knows no system message") == 1
    info = lm.get_model_info()["ctxbench"]
    assert info["system_message"] == "in the user's first message"


@pytest.mark.parametrize(
    ("template", "roles"),
    [
        (NO_SYSTEM, ["system", "assistant"]),
        ("{{ raise_exception('roles must alternate') }}", ["user", "user"]),
        ("{{ messages[0]['content'] + 1 }}", ["user"]),
        ("{% for m in messages %}", ["user"]),
        ("{{ undefined_function(messages) }}", ["user"]),
    ],
)
def test_what_a_template_refuses_is_said_in_a_sentence(template, roles):
    lm = CtxExt("mini")
    lm.tokenizer.chat_template = template
    with pytest.raises(ValueError, match=r"chat template refuses the conversation: .*Change those"):
        lm.apply_chat_template(messages(*roles))


# ------------------------------------------------------------------------ EOS and padding


def mini_with(folder, tokenizer=lambda content: None, settings=lambda content: None):
    shutil.copytree(resolve_model("mini"), folder)
    for name, edit in (("tokenizer", tokenizer), ("tokenizer_config", settings)):
        file = folder / f"{name}.json"
        content = json.loads(file.read_text())
        edit(content)
        file.write_text(json.dumps(content))
    return str(folder)


def test_eos_after_every_text_is_taken_away_and_said(tmp_path, caplog):
    def append_eos(content):
        text = {"Sequence": {"id": "A", "type_id": 0}}
        end = {"SpecialToken": {"id": "<|end|>", "type_id": 0}}
        content["post_processor"] = {
            "type": "TemplateProcessing", "single": [text, end], "pair": [text, end],
            "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [0], "tokens": ["<|end|>"]}},
        }  # fmt: skip

    plain, lm = CtxExt("mini"), CtxExt(mini_with(tmp_path / "m", append_eos))
    assert lm.tokenizer("The sky").input_ids[-1] == 0
    assert "puts <|end|> after every text" in caplog.text
    for text in ("The sky is", "The sky is<|end|>"):
        assert lm.tok_encode(text) == plain.tok_encode(text)
    assert lm._encode_pair("The sky is", " blue") == plain._encode_pair("The sky is", " blue")
    kinds = {"loglikelihood": ("The sky is", " blue"), "loglikelihood_rolling": ("The sky is.",)}
    for kind, arguments in kinds.items():
        request = Instance(kind, {}, arguments, 0, ("t", 0, 1))
        assert getattr(lm, kind)([request]) == getattr(plain, kind)([request])
    assert lm.get_model_info()["ctxbench"]["appended_tokens_removed"] == [0]
    assert "appended_tokens_removed" not in plain.get_model_info()["ctxbench"]


def added(token, special):
    return {"id": 1280, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special}  # fmt: skip


def test_padding_beyond_the_embeddings_runs_and_its_text_is_refused(tmp_path):
    folder = mini_with(
        tmp_path / "m",
        lambda content: content["added_tokens"].append(added("[PAD]", True)),
        lambda content: content.update(pad_token="[PAD]"),
    )
    lm, plain = CtxExt(folder, batch_size=2), CtxExt("mini", batch_size=2)
    requests = [ask("The sky is"), ask("The river ran down to the")]
    assert lm.generate_until(requests) == plain.generate_until(requests)
    with pytest.raises(ValueError, match=r"token '\[PAD\]' of id 1280, but the model has 1280 emb"):
        lm.generate_until([ask("The [PAD] is")])


def test_words_beyond_the_embeddings_and_no_eos_are_refused(tmp_path):
    one_more = added("word", False)
    word = mini_with(tmp_path / "word", lambda content: content["added_tokens"].append(one_more))
    with pytest.raises(ValueError, match="1281 tokens, the model has embeddings for 1280"):
        CtxExt(word)

    def nameless(content):
        for key in ("bos_token", "eos_token", "pad_token"):
            content.pop(key, None)

    with pytest.raises(ValueError, match="names no EOS token"):
        CtxExt(mini_with(tmp_path / "nameless", settings=nameless))


def test_a_config_with_yarn_beside_its_old_window_holds_factor_times_that(tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(resolve_model("mini"), folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("rope_parameters")
    config |= {
        "rope_theta": 1000.0,
        "rope_scaling": {
            "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    assert CtxExt(str(folder), length=1024).max_length == 1024
    assert CtxExt(str(folder)).max_length == 1024
    with pytest.raises(ValueError, match="the model's window is 1024 tokens and no method"):
        CtxExt(str(folder), length=2048)


# ------------------------------------------------------------------------- not a number


@pytest.fixture(scope="module")
def overflowing():
    """Finite in float32, not in float16, as models that were trained in bfloat16 are."""
    model, tokenizer = ctxbench.load_model("mini", "none", dtype="float16")
    model.model.layers[1].mlp.down_proj.weight.data.fill_(6e4)
    return model, tokenizer


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("kind", ["loglikelihood", "loglikelihood_rolling", "generate_until"])
def test_logits_that_are_no_numbers_are_an_error_that_says_where(overflowing, kind, batch_size):
    lm = CtxExt(overflowing[0], tokenizer=overflowing[1], batch_size=batch_size)
    arguments = {
        "loglikelihood": ("The sky is", " blue"),
        "loglikelihood_rolling": ("The sky is blue.",),
        "generate_until": ("The sky is", {"until": [], "max_gen_toks": 4, "num_beams": 2}),
    }
    requests = [Instance(kind, {}, arguments[kind], 0, (f"task_{n}", 7, 1)) for n in "ab"]
    words = r"for the token at position \d+ of a request of task task_[ab].* in torch.float16"
    with pytest.raises(NotFiniteError, match=words) as error:
        getattr(lm, kind)(requests)
    assert "document 7" in str(error.value) or kind == "loglikelihood_rolling"


def test_the_position_is_that_of_the_first_such_token():
    logprobs = torch.tensor([-1.0, float("nan"), float("-inf")])
    request = ScoringRequest([5, 6, 7, 8, 9], 2, origin=Origin("t"))
    with pytest.raises(NotFiniteError, match="log-probability nan for the token at position 3 of"):
        check_scores(logprobs, request, torch.float16)
    check_scores(logprobs[:1], request, torch.float16)
    masked = torch.tensor([[0.5, float("-inf")]])  # a token that a model forbids is fine
    prompt = GenerationRequest([5, 6], 10)
    processor = FiniteLogits([prompt], 2, torch.float16)
    assert processor(torch.zeros(1, 3), masked) is masked
    for bad in (float("nan"), float("inf")):
        with pytest.raises(NotFiniteError, match=f"logit {bad} for the token at position 3"):
            processor(torch.zeros(1, 3), torch.tensor([[0.5, bad]]))
    with pytest.raises(NotFiniteError, match="logit -inf"):
        processor(torch.zeros(1, 2), torch.full((1, 2), float("-inf")))


# ---------------------------------------------------------------------- targets, windows


def test_a_target_that_merges_with_its_context_is_scored_and_counted():
    lm = CtxExt("mini")
    request = Instance("loglikelihood", {}, ("x = 1", "2"), 0, ("t", 0, 1))
    ((total, _),) = lm.loglikelihood([request])
    before, after = lm._encode_pair("x = 1", "2")
    assert (before, lm.tok_decode(after)) == (lm.tok_encode("x = 1"), "2")
    assert total < 0
    assert lm.get_model_info()["ctxbench"]["targets_encoded_apart"] == 1


def rolling(text, **arguments):
    lm = CtxExt("mini", **arguments)
    return lm.loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (text,), 0, ("t", 0, 1))]
    )[0]


def test_a_text_that_begins_with_bos_has_one():
    text = "The river ran down to the sea and the boats went with it. " * 30
    assert rolling(text, add_bos_token=True) == pytest.approx(rolling(text, add_bos_token=False))


@pytest.mark.parametrize("stride", [None, 16])
def test_window_bos_begins_every_window(stride):
    ids = list(range(10, 110))
    windows = rolling_windows(ids, 0, 32, stride, begin=True)
    assert all(window.ids[0] == 0 and len(window.fed) <= 32 for window in windows)
    assert [t for window in windows for t in window.ids[window.first :]] == ids
    assert {len(window.fed) for window in windows[1:]} == {32}
    without = rolling_windows(ids, 0, 32, stride)
    assert [window.ids[0] for window in without].count(0) == 1


def test_window_bos_replaces_the_token_without_context_of_given_windows():
    from ctxbench.core.windows import WindowedText

    ids = CtxExt("mini").tok_encode("The river ran down to the sea and the boats went with it.")
    text = WindowedText(ids, [(0, 1, 8), (4, 8, 12)], 0)
    request = Instance("loglikelihood_rolling", {}, (text,), 0, ("t", 0, 1))
    lm = CtxExt("mini", window_bos=True)
    (found,) = lm.loglikelihood_rolling([request])
    begun = WindowedText([0, *ids[1:8], 0, *ids[5:12]], [(0, 1, 8), (8, 12, 16)], 0)
    (right,) = CtxExt("mini").loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (begun,), 0, ("t", 0, 1))]
    )
    assert found["sums"] == pytest.approx(right["sums"])
