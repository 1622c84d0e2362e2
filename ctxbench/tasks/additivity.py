"""For which tokenizers the tokens of a text are the sum of its parts' tokens: the proof.

A *cut* is a place before a space that follows a visible character; the text between two cuts is a
*unit*. Tokens are additive over units when every step of a tokenizer treats the two sides of a cut
alone:

- Added tokens are looked for first. None may hold a cut, else its two sides belong together.
- Normalizers must work on each side alone, and leave a visible character and a space what they are.
  Unicode's normal forms never reach over a space.
- Pre-tokenizers cut a text into pieces. A piece may run over a cut; a match of an expression must
  not (`split_pattern`), because then the text behind a cut would decide where pieces before it end.
  In most tokenizers some step matches every space: then every cut is the border of a piece, and
  whatever model encodes the pieces, the sum is right.
- Where pieces run over cuts (Llama-2 has no pre-tokenizer), the model must be a BPE with no token
  over a cut: merges on one side then never depend on the other. Its vocabulary must have every
  character, and nothing may depend on where a piece ends.

The same goes for the *inner* cuts of a unit, before a hyphen and between letters and digits: uuids
and pairs of words are new in every sample, what is between their inner cuts is not.

What is not listed here is not known to be local, and its prompts are tokenized whole.
"""

import re
from dataclasses import dataclass
from itertools import product
from typing import Any

from ctxbench.core.compat.tokenizers import rules_of
from ctxbench.tasks.split_pattern import (
    ANYTHING,
    CHARACTERS,
    DIGITS,
    LETTERS,
    OTHER,
    WHITE,
    Pieces,
    read_pattern,
)
from ctxbench.tasks.tokenizer import plain_backend

CUT = re.compile(r"(?<=[^\s▁]) ")
"""SentencePiece writes a space as ▁, so a ▁ in a text is no visible character."""
INNER_CUT = re.compile(r"(?<=[a-z0-9])(?=-[a-z0-9])|(?<=[a-z])(?=[0-9])|(?<=[0-9])(?=[a-z])")
COMPOUND = re.compile(r"[A-Za-z0-9.,:;!?\n-]+")
"""A unit that may be cut at its inner cuts: no added token that matters is made of these."""

_VISIBLE = CHARACTERS - {" ", WHITE}
_OVER_CUT = frozenset(product(_VISIBLE, " "))
_OVER_INNER_CUT = frozenset(
    {*product(LETTERS | DIGITS, "-"), *product(LETTERS, DIGITS), *product(DIGITS, LETTERS)}
)
_IN_COMPOUNDS = r"[ ▁ĠĊA-Za-z0-9.,:;!?\n-]*"  # what tokens of a compound are made of
_TOKEN_OVER_INNER_CUT = re.compile(
    rf"\A{_IN_COMPOUNDS}(?:[a-z0-9]-|[a-z][0-9]|[0-9][a-z]){_IN_COMPOUNDS}\Z"
)
# By how a vocabulary writes a space; the byte-level alphabet writes all white space as letters.
_TOKEN_OVER_CUT = {
    " ": re.compile(r"[^\s▁] "),
    "▁": re.compile(r"[^\s▁]▁"),
    "Ġ": re.compile(r"[^ĠĊĉčċČ]Ġ"),
}

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_BETWEEN_SPACES = Pieces(frozenset(product(_VISIBLE, _VISIBLE)), frozenset(" "))
_PRE_TOKENIZERS = {
    "Punctuation": Pieces(frozenset(product("-" + OTHER, "-" + OTHER)), frozenset("-")),
    "Whitespace": _BETWEEN_SPACES,
    "WhitespaceSplit": _BETWEEN_SPACES,
    "BertPreTokenizer": _BETWEEN_SPACES,
}


@dataclass(frozen=True)
class Additivity:
    """What is proven of a tokenizer.

    Attributes:
        why_not: why tokens cannot be summed over units; None if they can.
        inner_cuts: units that are a `COMPOUND` may be cut at their inner cuts too.
        joining: ids of added tokens that change how the text beside them is read: a text that
            holds one must be tokenized whole.
    """

    why_not: str | None = None
    inner_cuts: bool = False
    joining: frozenset[int] = frozenset()


class _Unproven(Exception):
    """A step is not known to treat the two sides of a cut alone."""


def additivity(tokenizer: Any) -> Additivity:
    """Return what is proven of a tokenizer."""
    backend = plain_backend(tokenizer)
    if backend is None:
        return Additivity("it is not a fast tokenizer of transformers, whose rules can be read")
    try:
        if getattr(backend.model, "dropout", None):
            raise _Unproven("it drops merges at random")
        normalizers = _steps(backend.normalizer, "normalizers")
        space = _normalize(normalizers)
        prepends = any(step["type"] == "Prepend" for step in normalizers)
        joining, inner_cuts = _added_tokens(backend, space, prepends)
        open_cuts, open_inner_cuts, space = _pre_tokenize(backend, space)
        if open_cuts:
            _check_model(backend, space, _TOKEN_OVER_CUT[space])
    except _Unproven as reason:
        return Additivity(str(reason))
    if inner_cuts and (open_inner_cuts is None or open_inner_cuts):
        inner_cuts = open_inner_cuts is not None and _holds_inner_cuts(backend, space)
    return Additivity(None, inner_cuts, joining)


def _steps(component: Any, key: str) -> list[dict]:
    """List the members of a normalizer or pre-tokenizer; none if there is none."""

    def flat(step: dict) -> list[dict]:
        return [s for member in step[key] for s in flat(member)] if key in step else [step]

    return [] if component is None else flat(rules_of(component))


def _normalize(steps: list[dict]) -> str:
    """Return how normalizers write a space."""
    space = " "
    for step in steps:
        if step["type"] == "Replace" and step["pattern"].get("String") == " ":
            if step["content"] == "▁":
                space = "▁"
                continue
        elif step["type"] in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend"):
            continue
        raise _Unproven(f"its normalizer {step['type']} is not known to work locally")
    return space


def _added_tokens(backend: Any, space: str, prepends: bool) -> tuple[frozenset[int], bool]:
    """Return the added tokens that join, and whether the others leave inner cuts alone."""
    joining, inner_cuts = set(), True
    normalizer = backend.normalizer
    for number, token in backend.get_added_tokens_decoder().items():
        written = token.content
        if token.normalized and normalizer is not None:
            written = normalizer.normalize_str(written)
        holds_cut = CUT.search(token.content) or re.search(rf"[^\s▁]{space}", written)
        if holds_cut or (token.single_word and written[:1] in (" ", "▁")):
            raise _Unproven(f"its added token {token.content!r} takes in the space beside it")
        if prepends or token.lstrip or token.rstrip:
            joining.add(number)
        for text in (token.content, written):
            text = text.strip(" ▁")
            if COMPOUND.fullmatch(text) and re.search(r"[a-z0-9-]", text):
                inner_cuts = False
    return frozenset(joining), inner_cuts


def _pre_tokenize(backend: Any, space: str) -> tuple[frozenset, frozenset | None, str]:
    """Return which pairs over cuts and inner cuts may end up in one piece, and the space.

    None instead of the inner pairs: a match may run over an inner cut.
    """
    cuts, inner = _OVER_CUT, _OVER_INNER_CUT
    for step in _steps(backend.pre_tokenizer, "pretokenizers"):
        pieces, space = _pieces(step, space)
        if cuts & pieces.pairs:
            what = f"its pre-tokenizer {step['type']}"
            if pattern := step.get("pattern"):
                what += f" by {next(iter(pattern.values()))[:60]!r}"
            raise _Unproven(f"{what} is not known to keep cuts")
        cuts = frozenset(pair for pair in cuts if pieces.matched.isdisjoint(pair))
        if inner is not None:
            joined = inner & pieces.pairs
            inner = frozenset(pair for pair in inner if pieces.matched.isdisjoint(pair))
            inner = None if joined else inner
    return cuts, inner, space


def _pieces(step: dict, space: str) -> tuple[Pieces, str]:
    """Return what is known of a pre-tokenizer's pieces, and how it leaves a space."""
    kind = step["type"]
    if kind == "Digits":
        repeats = () if step["individual_digits"] else product(DIGITS, DIGITS)
        return Pieces(frozenset(repeats), DIGITS), space
    if kind == "Metaspace" and step["replacement"] == "▁" and space in " ▁":
        return Pieces(matched=frozenset(" " if step["split"] else "")), "▁"
    if kind == "Split" and space == "▁" and step["pattern"].get("String") == " ":
        return Pieces(), space  # there is none left (Gemma)
    if space != " ":
        return ANYTHING, space
    if kind == "ByteLevel":
        return read_pattern(_GPT2) if step["use_regex"] else Pieces(), "Ġ"
    if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        pattern = step["pattern"]
        return read_pattern(pattern.get("Regex") or re.escape(pattern["String"])), space
    if kind == "Punctuation" and step["behavior"] not in ("Isolated", "Contiguous"):
        return ANYTHING, space
    return _PRE_TOKENIZERS.get(kind, ANYTHING), space


def _check_model(backend: Any, space: str, over_cut: re.Pattern[str]) -> None:
    """Raise unless the model encodes the two sides of a cut in the middle of a piece alone."""
    from tokenizers import models, pre_tokenizers

    model = backend.model
    if not isinstance(model, models.BPE):
        raise _Unproven(f"its model is {type(model).__name__}, and the proof is for BPE")
    if model.ignore_merges or model.continuing_subword_prefix or model.end_of_word_suffix:
        raise _Unproven("its tokens depend on where a piece ends, and pieces run over cuts")
    vocabulary = backend.get_vocab(with_added_tokens=False)
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    alphabet = byte_tokens if model.byte_fallback else [model.unk_token]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if space == "Ġ" else [space, *alphabet]
    if any(character not in vocabulary for character in alphabet):
        raise _Unproven("its vocabulary lacks characters")
    if spanning := [token for token in vocabulary if over_cut.search(token)]:
        raise _Unproven(f"its vocabulary has {min(spanning)!r}, which spans a cut")


def _holds_inner_cuts(backend: Any, space: str) -> bool:
    """Say whether the model encodes the two sides of an inner cut alone within a piece."""
    vocabulary = backend.get_vocab(with_added_tokens=False)
    try:
        _check_model(backend, space, _TOKEN_OVER_INNER_CUT)
    except _Unproven:
        return False
    return all(character in vocabulary for character in LETTERS | DIGITS | {"-"})
