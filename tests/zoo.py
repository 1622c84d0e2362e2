"""A zoo of tokenizers, made in memory: one for each rule that tokenizers of real models have.

Each is small (some hundred merges, trained on the standard library's sources) and saved as
`transformers` does, so that tasks load it by its folder like any other.
"""

import json
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers.processors import TemplateProcessing

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
_TEXTS = ("argparse", "textwrap", "statistics", "difflib", "random", "calendar")
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

# Expressions of published tokenizers.
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"{_ENDING}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TIKTOKEN = (  # tiktoken's own cl100k: possessive, and `$`
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
DEEPSEEK = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",  # noqa: RUF001  (as published)
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"  # noqa: RUF001  (as published)


@cache
def _training_text() -> list[str]:
    """Return sources of the standard library, and text of other scripts."""
    sources = [Path(import_module(name).__file__ or "").read_text("utf-8") for name in _TEXTS]
    odd = (
        "naïve café 北京大学 日本語の文 Привет, мир! ﬁne ½ ① 12345 3.14 a_b-c don't I'LL\r\n\t…" * 9
    )
    noise = (
        "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
    )
    return [source[:20000] for source in sources] + [odd, f"{noise}\n" * 99]


def _train(pre: pre_tokenizers.PreTokenizer | None, normalizer=None, alphabet=()) -> tuple:
    """Return the characters and merges of a small BPE."""
    made = Tokenizer(models.BPE())
    if normalizer is not None:
        made.normalizer = normalizer
    if pre is not None:
        made.pre_tokenizer = pre
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=list(alphabet), limit_alphabet=300, show_progress=False
    )
    made.train_from_iterator(_training_text(), trainer)
    merges = [tuple(merge) for merge in json.loads(made.to_str())["model"]["merges"]]
    merged = {"".join(merge) for merge in merges}
    return sorted(piece for piece in made.get_vocab() if piece not in merged), merges


def _assemble(characters, merges, pre, normalizer=None, **options) -> Tokenizer:
    """Put a BPE together."""
    pieces = dict.fromkeys([UNK, BOS, EOS, *characters, *map("".join, merges)])
    model = models.BPE({piece: n for n, piece in enumerate(pieces)}, merges, **options)
    made = Tokenizer(model)
    if normalizer is not None:
        made.normalizer = normalizer
    if pre is not None:
        made.pre_tokenizer = pre
    made.add_special_tokens([UNK, BOS, EOS])
    return made


def byte_level(*splits, normalizer=None, add_prefix_space: bool = False, **options) -> Tokenizer:
    """Return a byte-level BPE behind pre-tokenizers; behind none, GPT-2's expression."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=not splits)
    pre = pre_tokenizers.Sequence([*splits, level]) if splits else level
    trained = _train(pre, normalizer, sorted(pre_tokenizers.ByteLevel.alphabet()))
    made = _assemble(*trained, pre, normalizer, **options)
    made.decoder = decoders.ByteLevel()
    return made


def sentencepiece(pre, *steps, joined: bool = False) -> Tokenizer:
    """Return a BPE over text in which a space is ▁, with tokens for bytes."""
    normalizer = normalizers.Sequence(list(steps)) if steps else None
    if joined:  # trained without borders between words
        characters, merges = _train(*split(r"[^\n]+"), normalizer)
    else:
        characters, merges = _train(pre_tokenizers.Metaspace(prepend_scheme="never"))
    options = {"unk_token": UNK, "byte_fallback": True, "fuse_unk": True}
    made = _assemble(
        [*_BYTES, *dict.fromkeys(["▁", *characters])], merges, pre, normalizer, **options
    )
    to_space = decoders.Replace("▁", " ")
    made.decoder = decoders.Sequence([to_space, decoders.ByteFallback(), decoders.Fuse()])
    return made


def split(*patterns: str) -> list[pre_tokenizers.PreTokenizer]:
    """Return pre-tokenizers that cut by expressions, one after the other."""
    return [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]


def around(made: Tokenizer, template: str) -> Tokenizer:
    """Let a post-processor put tokens around a text."""
    made.post_processor = TemplateProcessing(
        single=template, special_tokens=[(t, made.token_to_id(t)) for t in (BOS, EOS)]
    )
    return made


def adding(made: Tokenizer, *tokens: AddedToken) -> Tokenizer:
    """Add tokens that are looked for before anything else."""
    made.add_tokens(list(tokens))
    return made


_TO_SPACE_MARK = normalizers.Replace(" ", "▁")


def _unigram(**metaspace) -> Tokenizer:
    characters, merges = _train(pre_tokenizers.Metaspace(prepend_scheme="never"))
    pieces = dict.fromkeys([UNK, BOS, EOS, "▁", *characters, *map("".join, merges)])
    made = Tokenizer(models.Unigram([(piece, -1.0 - n) for n, piece in enumerate(pieces)], 0))
    made.pre_tokenizer = pre_tokenizers.Metaspace(**metaspace)
    made.decoder = decoders.Metaspace(**metaspace)
    made.add_special_tokens([UNK, BOS, EOS])
    return made


def _words() -> Tokenizer:
    made = Tokenizer(models.WordLevel({UNK: 0, BOS: 1, EOS: 2, "the": 3}, UNK))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def _wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token=UNK))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=700, special_tokens=[UNK, BOS, EOS], show_progress=False
    )
    made.train_from_iterator(_training_text(), trainer)
    return made


def _cutting_and_padding() -> Tokenizer:
    made = byte_level(*split(CL100K % r"\p{N}"))
    made.enable_truncation(64)
    made.enable_padding(length=128, pad_id=0, pad_token=UNK)
    return made


# Name -> tokenizer; those whose prompts must be tokenized whole say why.
SUMMED: dict[str, Callable[[], Tokenizer]] = {
    "llama-2": lambda: around(
        sentencepiece(None, normalizers.Prepend("▁"), _TO_SPACE_MARK), f"{BOS} $A"
    ),
    "llama-2-metaspace": lambda: around(
        sentencepiece(pre_tokenizers.Metaspace(prepend_scheme="first", split=False)), f"{BOS} $A"
    ),
    "no-dummy-prefix": lambda: sentencepiece(None, _TO_SPACE_MARK),
    "always-a-dummy-prefix": lambda: sentencepiece(
        pre_tokenizers.Metaspace(prepend_scheme="always")
    ),
    "dummy-prefix-behind-added": lambda: adding(
        sentencepiece(None, normalizers.Prepend("▁"), _TO_SPACE_MARK),
        AddedToken("special", normalized=False),
        AddedToken("<|im_start|>", special=True, normalized=False),
    ),
    "gemma": lambda: adding(
        sentencepiece(pre_tokenizers.Split(" ", "merged_with_previous"), _TO_SPACE_MARK),
        *(AddedToken(text, normalized=False) for text in ("\n", "\n\n", "▁▁", "<unused1>")),
    ),
    "gpt-2": byte_level,
    "prefix-space": lambda: byte_level(add_prefix_space=True),
    "nfkc": lambda: byte_level(normalizer=normalizers.NFKC()),
    "lower-case": lambda: byte_level(
        normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()])
    ),
    "cl100k": lambda: byte_level(*split(CL100K % r"\p{N}{1,3}")),
    "tiktoken-cl100k": lambda: byte_level(*split(TIKTOKEN)),
    "llama-3": lambda: around(
        byte_level(*split(CL100K % r"\p{N}{1,3}"), ignore_merges=True), f"{BOS} $A"
    ),
    "o200k": lambda: byte_level(*split(O200K)),
    "three-splits": lambda: around(byte_level(*split(*DEEPSEEK)), f"{BOS} $A"),
    "digits-one-by-one": lambda: byte_level(
        *split(CL100K % r"\p{N}"), normalizer=normalizers.NFC()
    ),
    "digits-first": lambda: byte_level(
        pre_tokenizers.Digits(individual_digits=True), *split(CL100K % r"\p{N}")
    ),
    "digits-in-threes": lambda: byte_level(
        pre_tokenizers.Punctuation("contiguous"), *split(CL100K % r"\p{N}+", "[0-9][0-9][0-9]")
    ),
    "eos-appended": lambda: around(byte_level(), f"$A {EOS}"),
    "bos-and-eos": lambda: around(byte_level(*split(O200K)), f"{BOS} $A {EOS}"),
    "added-inside-words": lambda: adding(
        byte_level(),
        AddedToken("gre", normalized=False),
        AddedToken("ing"),
        AddedToken(" magic"),
        AddedToken("is", single_word=True),
        AddedToken("7", normalized=False),
    ),
    "added-that-strip": lambda: adding(
        byte_level(*split(CL100K % r"\p{N}")),
        AddedToken("blue", rstrip=True),
        AddedToken("uuid", lstrip=True),
    ),
    "unigram": lambda: around(_unigram(prepend_scheme="always"), f"$A {EOS}"),
    "words": _words,
    "short-window": lambda: byte_level(*split(CL100K % r"\p{N}{1,3}")),
    "cuts-and-pads": _cutting_and_padding,
}
WHOLE: dict[str, tuple[Callable[[], Tokenizer], str]] = {
    "added-over-spaces": (
        lambda: adding(byte_level(), AddedToken("grass is", normalized=False)),
        "added token 'grass is'",
    ),
    "added-over-spaces-by-nfkc": (
        lambda: adding(byte_level(normalizer=normalizers.NFKC()), AddedToken("sky\u00a0is")),
        "added token 'sky\\xa0is'",
    ),
    "words-joined": (
        lambda: sentencepiece(None, _TO_SPACE_MARK, joined=True),
        "spans a cut",
    ),
    "unigram-unsplit": (lambda: _unigram(split=False), "Unigram"),
    "wordpiece": (_wordpiece, "BertNormalizer"),
    "expression-over-spaces": (
        lambda: byte_level(*split(r"\p{L}+ \p{L}+|\s+|\S")),
        "not known to keep cuts",
    ),
    "expression-not-understood": (lambda: byte_level(*split(BLOOM)), "not known to keep cuts"),
    "looks-behind": (lambda: byte_level(*split(r"(?<= )\p{L}+|\s+|\S")), "not known to keep"),
    "no-fast-version": (lambda: None, "not a fast tokenizer"),
}
NAMES = (*SUMMED, *WHOLE)


def save(name: str, folder: Path) -> str:
    """Save a tokenizer of the zoo in a folder; return its path."""
    from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

    path = folder / name
    if name == "no-fast-version":
        tokenizer = ByT5Tokenizer(extra_ids=0)
    else:
        make = SUMMED[name] if name in SUMMED else WHOLE[name][0]
        longest = {"model_max_length": 512} if name == "short-window" else {}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=make(), bos_token=BOS, eos_token=EOS, unk_token=UNK, **longest
        )
    tokenizer.save_pretrained(path)
    return str(path)
