"""Sums over units must be the tokenizer's own counts; essays must be NLTK's sentences."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxbench.core.compat.nltk import english_splitter
from ctxbench.tasks.additivity import additivity
from ctxbench.tasks.essays import load_essays
from ctxbench.tasks.token_count import (
    TokenCounter,
    fingerprint,
    render,
    repeated_line,
    units,
    word_run,
)
from ctxbench.tasks.tokenizer import load_tokenizer

NAMES = ["mini", "tok", "llama_tokenizer", "llama2"]


@pytest.fixture(scope="module", params=NAMES)
def tokenizer(request):
    if request.param == "mini":
        return load_tokenizer("mini")
    return load_tokenizer(str(request.getfixturevalue("data_dir") / request.param))


def test_sums_are_exact_for_real_prompts(tokenizer, golden_dir):
    assert additivity(tokenizer).why_not is None
    counter = TokenCounter(tokenizer)
    for path in sorted((golden_dir / "ruler").glob("*_4096.jsonl")):
        row = json.loads(path.read_text().splitlines()[0])
        text = row["input"] + row["answer_prefix"]
        assert counter.count([text]) == counter.exact(text), path.name


ODD = st.text(alphabet=" \n\tab1-.'é漢 \x1c ​_/{", max_size=40)


@settings(max_examples=300, deadline=None)
@given(text=ODD)
@pytest.mark.parametrize("name", ["mini"])
def test_sums_are_exact_for_odd_text(name, text):
    counter = _counters.setdefault(name, TokenCounter(load_tokenizer(name)))
    assert counter.count([text]) == counter.exact(text)
    assert " ".join(units(text)) == text


_counters: dict[str, TokenCounter] = {}


@settings(max_examples=60, deadline=None)
@given(text=ODD)
def test_sums_are_exact_for_odd_text_in_sentencepiece_and_gpt2(data_dir, text):
    for name in NAMES[1:]:
        path = str(data_dir / name)
        counter = _counters.setdefault(name, TokenCounter(load_tokenizer(path)))
        assert counter.count([text]) == counter.exact(text)


def test_parts_count_as_their_text(tokenizer):
    words = [f"word{n % 7}" for n in range(50)]
    parts = ["Read:\n", *word_run(words, 3, 40), "\n", *repeated_line("A b c. D e.", 9), "\nEnd: "]
    text = f"Read:\n{' '.join(words[3:40])}\n" + "\n".join(["A b c. D e."] * 9) + "\nEnd: "
    assert render(parts) == text
    for special_tokens in (False, True):
        counter = TokenCounter(tokenizer, special_tokens)
        assert counter.count(parts) == counter.exact(text)
        assert TokenCounter(tokenizer, special_tokens, additive=False).count(parts) == (
            counter.exact(text)
        )


def test_a_vocabulary_that_spans_a_cut_is_noticed():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def build(merges, pre):
        pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
        vocabulary = {piece: n for n, piece in enumerate(pieces)}
        backend = Tokenizer(models.BPE(vocabulary, merges))
        backend.pre_tokenizer, backend.decoder = pre, decoders.ByteLevel()
        return PreTrainedTokenizerFast(tokenizer_object=backend)

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fine = build([("Ġ", "b")], level)
    assert additivity(fine).why_not is None
    spanning = build([("a", "Ġ")], level)
    assert "spans a cut" in (additivity(spanning).why_not or "")
    assert TokenCounter(spanning).count(["a b"]) == TokenCounter(spanning).exact("a b") == 2
    unknown = build([], pre_tokenizers.UnicodeScripts())
    assert "UnicodeScripts" in (additivity(unknown).why_not or "")
    assert fingerprint(fine) != fingerprint(spanning)


def test_essays_are_split_as_the_official_code_splits_a_prefix(data_dir, monkeypatch):
    """Also where punkt splits inside a word, and beyond the end of the file."""
    monkeypatch.setenv("CTXBENCH_DATA", str(data_dir))
    essays = load_essays(str(data_dir))
    punkt = english_splitter(str(data_dir / "nltk_data/tokenizers/punkt_tab/english"))
    for count in (1, 50, 137, 2500, 3210):
        text = " ".join(essays._source[:count])
        wanted = punkt.tokenize(text)
        end = essays.prefix(count)
        borders = [*essays.sentence_starts(0, end), end]
        words = essays.words_to(end)
        ours = [" ".join(words[a:b]) for a, b in itertools.pairwise(borders)]
        assert ours == wanted
    assert essays.prefix(3210) > 3210  # footnote marks became words
