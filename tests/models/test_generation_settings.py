"""What a checkpoint says about generating changes no greedy answer, and nothing is silent."""

import json
import logging

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import GenerationConfig

import ctxbench
from ctxbench.models import generation_settings as settings
from ctxbench.models.answers import config_content, tokenizer_content
from ctxbench.models.checks import end_of_turn
from ctxbench.models.ctxext import CtxExt
from ctxbench.models.reasoning import Answer, Reasoning

FILLER = "The river ran down. " * 3
PROMPT = FILLER + "The secret number of Paris is 4821. " + FILLER + "The secret number of"
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is not defined or "
    "enable_thinking %}<think>\n{% endif %}{% endif %}"
)
FIELDS = {name for name in vars(GenerationConfig()) if name != "_commit_hash"}
HOSTILE = {
    "assistant_early_exit": 1,
    "bad_words_ids": [[299], [32]],
    "begin_suppress_tokens": list(range(40)),
    "cache_implementation": "static",
    "constraints": [1],
    "diversity_penalty": 0.5,
    "dola_layers": "low",
    "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.5,
    "exponential_decay_length_penalty": [2, 3.0],
    "force_words_ids": [[5]],
    "forced_bos_token_id": 5,
    "forced_eos_token_id": 5,
    "guidance_scale": 1.5,
    "max_length": 5,
    "max_new_tokens": 2,
    "max_time": 1e-9,
    "min_length": 400,
    "min_new_tokens": 300,
    "no_repeat_ngram_size": 2,
    "num_beam_groups": 2,
    "num_beams": 3,
    "num_return_sequences": 2,
    "output_scores": True,
    "pad_token_id": 7,
    "penalty_alpha": 0.6,
    "prefill_chunk_size": 3,
    "prompt_lookup_num_tokens": 3,
    "renormalize_logits": True,
    "repetition_penalty": 3.0,
    "return_dict_in_generate": True,
    "sequence_bias": [[[5], 100.0]],
    "suppress_tokens": [299, 32],
    "temperature": 9.0,
    "token_healing": True,
    "top_k": 3,
    "typical_p": 0.2,
    "use_cache": False,
}
"""Values that change an answer, or crash, where `generate` follows them."""


def ask(prompt=PROMPT, **more):
    given = {"until": [], "max_gen_toks": 16, "do_sample": False, **more}
    return Instance("generate_until", {}, (prompt, given), 0, metadata=("t", 0, 1))


@pytest.fixture(scope="module")
def loaded():
    model, tokenizer = ctxbench.load_model("mini", "none")
    lm = CtxExt(model, tokenizer=tokenizer)
    return model, tokenizer, lm.generate_until([ask(), ask(PROMPT + " Paris")])


def test_every_field_has_an_owner():
    known = {*settings.TAKEN, *settings.OURS, *settings.ALLOWED, *settings.REFUSED}
    assert known == FIELDS
    assert not {*settings.ALLOWED} & {*settings.REFUSED}
    assert not {*settings.OURS} & {*settings.ALLOWED}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("ignore")  # transformers', about values that make no sense
def test_a_checkpoints_settings_change_no_answer_and_are_named(loaded, monkeypatch, name, caplog):
    model, tokenizer, right = loaded
    own = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)
    setattr(own, name, HOSTILE[name])  # as files do: without the constructor's checks
    monkeypatch.setattr(model, "generation_config", own)
    lm = CtxExt(model, tokenizer=tokenizer)
    with caplog.at_level(logging.WARNING):
        assert lm.generate_until([ask(), ask(PROMPT + " Paris")]) == right
    assert model.generation_config is own
    aside = lm.get_model_info()["ctxbench"]["generation_set_aside"]
    if name not in settings.OURS or name == "use_cache":
        assert aside == {name: HOSTILE[name]}
        assert f"{name}={HOSTILE[name]!r}" in caplog.text


def read(**fields):
    return settings.CheckpointGeneration((1, 2), ("\n\nQ:",), fields)


def asked(**given):
    return settings.settings_for(given, read(), new_tokens=64, end="</s>", overflow="error")


def test_what_a_task_may_set_and_what_not():
    for name in (*settings.REFUSED, "max_new_token", "no_repeat_ngram"):
        with pytest.raises(ValueError, match=rf"argument '?{name}"):
            asked(**{name: 3})
        assert name not in asked(**{name: None}).options
    for name in {*settings.ALLOWED} - {"do_sample", "eos_token_id"}:
        assert asked(do_sample=True, **{name: 3}).options[name] == 3
    for ends in (3, [3]):
        assert asked(eos_token_id=ends).options["eos_token_id"] == [3]
    for name, bad in (
        ("max_gen_toks", "abc"),
        ("eos_token_id", "</s>"),
        ("until", 5),
        ("temperature", "hot"),
    ):
        with pytest.raises(ValueError, match=f"argument {name}={bad!r} is not allowed; it must be"):
            asked(**{name: bad})
    with pytest.raises(
        ValueError, match=r"There is no generation argument 'temperatures'.*temperat"
    ):
        asked(temperatures=1)
    with pytest.raises(ValueError, match="max_gen_toks=0 leaves no token"):
        asked(max_gen_toks=0)
    with pytest.raises(ValueError, match="ctx_overflow='right' is not allowed"):
        asked(ctx_overflow="right")


def test_greedy_unless_sampling_was_asked_for():
    greedy = asked(temperature=0.0, top_p=0.5, until="x")
    assert greedy.in_force() == {
        "do_sample": False,
        "eos_token_id": [1, 2],
        "max_new_tokens": 64,
        "until": ["x", "</s>", "\n\nQ:"],
        "ctx_overflow": "error",
    }
    sampled = asked(do_sample=True, temperature=0.7)
    assert (sampled.sampled, sampled.options["temperature"]) == (True, 0.7)
    assert settings.generation_config(sampled.options).top_k == 0  # not the 50 of transformers


def test_every_end_of_a_checkpoint_ends_an_answer(loaded, monkeypatch):
    model, tokenizer, (right, _) = loaded
    ids = tokenizer(right).input_ids
    own = GenerationConfig(eos_token_id=[0, ids[3]], stop_strings=["zzz"])
    monkeypatch.setattr(model, "generation_config", own)
    lm = CtxExt(model, tokenizer=tokenizer)
    (found,) = lm.generate_until([ask()])
    assert found == tokenizer.decode(ids[: ids.index(ids[3]) + 1])
    in_force = lm.get_model_info()["ctxbench"]["generation"]["t"]
    assert in_force["eos_token_id"] == sorted({0, ids[3], tokenizer.eos_token_id})
    assert "zzz" in in_force["until"]


@pytest.fixture
def chat(loaded):
    """A tokenizer whose turns end with a token of their own, and that reasons."""
    tokenizer = type(loaded[1]).from_pretrained(loaded[1].name_or_path)
    tokenizer.chat_template = CHAT
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def test_the_end_of_a_turn_is_read_from_the_template(chat):
    assert end_of_turn(chat, {}) == chat.convert_tokens_to_ids("<|end|>")
    chat.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert end_of_turn(chat, {}) is None


# ----------------------------------------------------------------------- reasoning


def tokens(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    ("end", "generated", "inside", "finished", "answer"),
    [
        (None, "It is 7.", False, True, Answer("It is 7.")),
        (None, "It is 7.", False, False, Answer("It is 7.")),
        (None, "<think>It is 7.</think>\n\n8", False, True, Answer("8")),
        (None, "<think>It is 7.", False, True, Answer("", cut=True)),
        (None, "<think>It is 7.", False, False, Answer("", cut=True)),
        (None, "It is 7.</think>8", True, True, Answer("8")),
        (None, "It is 7.", True, True, Answer("", cut=True)),
        ("</think>", "It is 7.</think> 8", False, True, Answer("8")),
        ("</think>", "It is 7.", False, True, Answer("It is 7.")),
        ("</think>", "It is 7.", False, False, Answer("", cut=True)),
        ("is", "It is 7 is 8", False, True, Answer("8")),
    ],
)
def test_only_what_follows_the_reasoning_is_an_answer(
    chat, end, generated, inside, finished, answer
):
    assert Reasoning(chat, end, None).answer(tokens(chat, generated), inside, finished) == answer
    if end == "</think>":
        by_id = Reasoning(chat, chat.convert_tokens_to_ids(end), None)
        assert by_id.answer(tokens(chat, generated), inside, finished) == answer


def test_a_special_token_may_end_reasoning(chat):
    chat.add_special_tokens({"additional_special_tokens": ["<|end|>", "</think>"]})
    new = tokens(chat, "<think>It is 7.</think>8")
    assert "</think>" not in chat.decode(new, skip_special_tokens=True)
    assert Reasoning(chat, None, None).answer(new, False, True) == Answer("8")


def test_stop_strings_are_those_of_the_answer(chat):
    reasoning = Reasoning(chat, None, None)
    new = tokens(chat, "One.\n\nTwo.</think>\n\n8\n\nmore")
    stopping = reasoning.stopping(["\n\n"], 2, [True])
    ended = [
        bool(stopping(torch.tensor([[5, 5, *new[:count]]]), None)) for count in range(1, len(new))
    ]
    before = chat.decode(new[: ended.index(True) + 1])
    assert before.endswith("8\n\n")


def test_what_makes_no_sense_is_refused(chat):
    for end, budget, words in (
        (len(chat), None, "is no token: the tokenizer has"),
        ("", None, "empty text"),
        (None, -1, "reasoning_tokens=-1 is negative"),
    ):
        with pytest.raises(ValueError, match=words):
            Reasoning(chat, end, budget)


def template(chat, **more):
    return chat.apply_chat_template(
        [{"role": "user", "content": "Why?"}], tokenize=False, add_generation_prompt=True, **more
    )


def test_the_budget_of_reasoning_is_asked_for(chat, caplog):
    prompt = template(chat)
    with caplog.at_level(logging.WARNING):
        assert Reasoning(chat, None, None).budget([prompt], "t") == 0
    assert "Give the model argument reasoning_tokens=N" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert Reasoning(chat, None, 500).budget([prompt], "t") == 500
        assert Reasoning(chat, None, 500).budget([template(chat, enable_thinking=False)], "t") == 0
        assert Reasoning(chat, "</think>", 500).budget(["What?"], "t") == 500
    assert not caplog.text


def test_an_answers_beginning_inside_reasoning_is_refused(chat):
    with pytest.raises(ValueError, match=r"Task ruler gives the beginning of the answer .'The num"):
        Reasoning(chat, None, None).budget([template(chat) + "The number is"], "ruler")
    closed = template(chat, enable_thinking=False) + "The number is"
    assert Reasoning(chat, None, None).budget([closed], "ruler") == 0
    quoted = chat.apply_chat_template(
        [{"role": "user", "content": "What is <think>?"}], tokenize=False, enable_thinking=False
    )
    assert Reasoning(chat, None, None).budget([quoted + "It is"], "ruler") == 0


def test_reasoning_that_was_cut_scores_nothing_and_is_counted(loaded, tmp_path, monkeypatch):
    """Also where the answer was kept."""
    model, tokenizer, (right, _) = loaded
    for _ in range(2):
        lm = CtxExt(model, tokenizer=tokenizer, think_end_token="</none>", cache=str(tmp_path))
        assert lm.generate_until([ask()]) == [""]
        found = lm.get_model_info()["ctxbench"]
        assert found["answers_without_end_of_reasoning"] == 1
        monkeypatch.setattr(model, "generate", lambda **_: pytest.fail("computed"))
    monkeypatch.undo()
    lm = CtxExt(model, tokenizer=tokenizer, think_end_token=" is", reasoning_tokens=5)
    assert lm.generate_until([ask()])[0].startswith(right.split(" is")[-1].lstrip())
    assert lm.get_model_info()["ctxbench"]["generation"]["t"]["max_new_tokens"] == 21


# ------------------------------------------------------------------- what a key holds


def test_a_fingerprint_knows_all_that_decides_an_answer(loaded):
    model, tokenizer, _ = loaded
    lm = CtxExt(model, tokenizer=tokenizer)
    before, config = lm.fingerprint(), lm.hf_model.config

    def changed(owner, name, value):
        old = getattr(owner, name)
        setattr(owner, name, value)
        try:
            return lm.fingerprint() != before
        finally:
            setattr(owner, name, old)

    assert changed(config, "rms_norm_eps", 1e-3)
    assert changed(config, "hidden_act", "gelu")
    assert changed(tokenizer, "chat_template", "x")
    assert changed(tokenizer, "clean_up_tokenization_spaces", "x")
    assert changed(lm, "stride", 7)
    assert changed(tokenizer, "eos_token", "a")
    assert not changed(config, "use_cache", False)
    assert not changed(config, "_name_or_path", "elsewhere")
    assert lm.fingerprint() == before
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight[0, 0] += 1
        assert lm.fingerprint() != before
        weight[0, 0] -= 1


def test_the_last_call_of_a_tokenizer_is_no_rule_of_it(loaded):
    tokenizer = type(loaded[1]).from_pretrained(loaded[1].name_or_path)
    before = tokenizer_content(tokenizer)
    tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert tokenizer_content(tokenizer) == before


def test_rules_of_a_tokenizer_are_part_of_its_content(loaded):
    from tokenizers import normalizers

    tokenizer = type(loaded[1]).from_pretrained(loaded[1].name_or_path)
    before = tokenizer_content(tokenizer)
    tokenizer.add_tokens(["inside"])
    added = tokenizer_content(tokenizer)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert len({json.dumps(c) for c in (before, added, tokenizer_content(tokenizer))}) == 3
    assert "_name_or_path" not in config_content(loaded[0].config)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")
def test_adapters_of_the_same_weights_and_another_scale_differ(loaded, tmp_path):
    from peft import LoraConfig, get_peft_model

    found = set()
    for alpha in (8, 16):
        model, _ = ctxbench.load_model("mini", "none")
        torch.manual_seed(0)
        config = LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj"])
        folder = tmp_path / str(alpha)
        get_peft_model(model, config).save_pretrained(folder)
        lm = CtxExt("mini", "none", peft=str(folder))
        found.add(lm.fingerprint())
    assert len(found) == 2
