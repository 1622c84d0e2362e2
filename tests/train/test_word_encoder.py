"""Encoding by the word gives the ids of the `tokenizers` library, whatever the text."""

import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from ctxbench.core.stdlib_corpus import stdlib_files
from ctxbench.tasks.tokenizer import load_tokenizer
from ctxbench.train import word_encoder
from ctxbench.train.word_encoder import WordEncoder

TEXTS = [text for _, text in stdlib_files()][:60]
CUT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
CUT += r"|\s*[\r\n]+|\s+(?!\S)|\s+"  # Llama-3's


def byte_level(*splits, **options):
    """Trains a small byte-level BPE that cuts by `splits`, or as GPT-2 without."""
    tokenizer = Tokenizer(models.BPE())
    last = pre_tokenizers.ByteLevel(
        **{"add_prefix_space": False, "use_regex": not splits, **options}
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, last]) if splits else last
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet,
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXTS[:20], trainer)
    return tokenizer


def isolated(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def with_bos(tokenizer):
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


TOKENIZERS = {
    "bundled": load_tokenizer("mini").backend_tokenizer,
    "gpt2": byte_level(),
    "llama3": with_bos(byte_level(isolated(CUT))),
}


def check(name, texts):
    backend = TOKENIZERS[name]
    encoder = WordEncoder(backend)
    expected = [encoding.ids for encoding in backend.encode_batch_fast(texts)]
    assert [list(ids) for ids in encoder.encode(texts)] == expected
    assert [list(ids) for ids in encoder.encode(texts)] == expected  # now remembered
    return encoder


@pytest.mark.parametrize("name", TOKENIZERS)
def test_source_code_is_encoded_by_words_alone(name, monkeypatch):
    encoder = check(name, TEXTS)
    assert len(encoder._words) > 1000
    monkeypatch.setattr(encoder, "_backend", None)  # the library is not asked again
    encoder.encode(TEXTS)


def test_real_text(data_dir):
    backend = Tokenizer.from_file(str(data_dir / "tok" / "tokenizer.json"))
    texts = [file.read_text(errors="replace") for file in sorted(data_dir.rglob("*.txt"))[:20]]
    assert texts
    expected = [encoding.ids for encoding in backend.encode_batch_fast(texts)]
    assert [list(ids) for ids in WordEncoder(backend).encode(texts)] == expected


@pytest.mark.parametrize("name", TOKENIZERS)
def test_characters_from_all_of_unicode(name):
    """A sample: classes of characters differ between the engines' Unicode versions, ids not."""
    draw = random.Random(0)
    points = [c for c in range(sys.maxunicode + 1) if not 0xD800 <= c <= 0xDFFF]
    some = [*range(0xD800), *draw.sample(points, 4000)][::7]
    draw.shuffle(some)
    lines = (some[n : n + 40] for n in range(0, len(some), 40))
    check(name, ["".join(f"{chr(c)}{draw.choice(' ab1!')}" for c in line) for line in lines])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=4))
def test_any_text(texts):
    for name in TOKENIZERS:
        check(name, texts)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_contractions_spaces_and_special_tokens(name):
    special = next(iter(TOKENIZERS[name].get_added_tokens_decoder().values())).content
    odd = [
        "",
        " ",
        "\n",
        "I'LL we'\u017f don't  'S",
        "a \t\r\n\n  b\n ",
        "a\u0085b\u00a0 c\u200b",
        "x" * 500,
    ]
    check(name, [*odd, f"a {special} b", f"{special}", special[:2], f"{special[:-1]} a"])


def test_invalid_text_is_the_librarys_error():
    with pytest.raises(TypeError):
        WordEncoder(TOKENIZERS["gpt2"]).encode(["\ud83d"])


def test_memory_of_words_is_bounded(monkeypatch):
    monkeypatch.setattr(word_encoder, "_WORDS", 50)
    encoder = check("gpt2", TEXTS[:5])
    assert len(encoder._words) <= 50


def prefixed():
    return byte_level(add_prefix_space=True)


def normalised():
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFKC()
    return tokenizer


def truncating():
    tokenizer = byte_level()
    tokenizer.enable_truncation(5)
    return tokenizer


def not_covering():
    return byte_level(isolated(r"[a-z]+"))


def not_pythons():
    return byte_level(isolated(r"\h+|[^ ]+| +"))  # a hexadecimal digit, to Oniguruma alone


def nothing_cut():
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    return tokenizer


def whole_words():
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


OTHERS = [prefixed, normalised, truncating, not_covering, not_pythons, nothing_cut, whole_words]


@pytest.mark.parametrize("make", OTHERS)
def test_other_tokenizers_are_left_to_the_library(make):
    backend = make()
    texts = ["a b \u2460 word another", *TEXTS[:2]]
    expected = [encoding.ids for encoding in backend.encode_batch_fast(texts)]
    assert [list(ids) for ids in WordEncoder(backend).encode(texts)] == expected
