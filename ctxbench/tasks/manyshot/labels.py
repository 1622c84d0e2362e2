"""Greedy decoding over a trie of labels, out of plain log-likelihood requests.

Bertsch et al. 2024 (arXiv 2405.00200) let the model write a label token by token, only tokens that
continue some label being allowed, and stop as soon as one label is left. At a branching the model
takes the likeliest allowed token, that is, the branch whose text so far has the highest
log-likelihood: all branches share what came before. So the log-likelihoods of the branches' texts
decide, and any model that can score a continuation can be decoded this way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations


@dataclass(frozen=True)
class LabelTrie:
    """What to score, and how the scores decide.

    Attributes:
        continuations: texts to score after the prompt: first the labels themselves, then the
            branches that are not whole labels.
        paths: per label, the index of its branch at each branching on the way to it.
    """

    continuations: list[str]
    paths: list[list[int]]


def label_trie(labels: Sequence[str], tokenizer, before: str) -> LabelTrie:
    """Make the trie of labels as the tokenizer cuts them.

    Args:
        labels: label texts, written after a space.
        tokenizer: cuts them; special tokens around a text are left out.
        before: how every prompt ends, without the space.

    Raises:
        ValueError: the tokens of one label are, or begin, another's, or no text has the tokens of a
            branch.
    """

    def tokens(text: str) -> list[int]:
        return tokenizer(before + text, add_special_tokens=False, verbose=False).input_ids

    start = len(tokens(""))
    encode = cache(lambda text: tuple(tokens(text)[start:]))
    texts = [f" {label}" for label in labels]
    ids = [encode(text) for text in texts]
    _check_labels(labels, ids)
    continuations, paths = list(texts), []
    for text, mine in zip(texts, ids, strict=True):
        path = []
        for depth in range(len(mine)):
            rivals = {other[depth] for other in ids if other[:depth] == mine[:depth]}
            if len(rivals) > 1:
                branch = _branch(text, mine[: depth + 1], encode)
                if branch not in continuations:
                    continuations.append(branch)
                path.append(continuations.index(branch))
        paths.append(path)
    return LabelTrie(continuations, paths)


def greedy_label(loglikelihoods: Sequence[float], paths: Sequence[Sequence[int]]) -> int:
    """Return the label that greedy decoding over the trie writes.

    Args:
        loglikelihoods: of `LabelTrie.continuations`.
        paths: `LabelTrie.paths`.
    """
    alive = list(range(len(paths)))
    depth = 0
    while len(alive) > 1:
        branches = {paths[label][depth] for label in alive}
        chosen = max(sorted(branches), key=lambda branch: loglikelihoods[branch])
        alive = [label for label in alive if paths[label][depth] == chosen]
        depth += 1
    return alive[0]


def _check_labels(labels: Sequence[str], ids: Sequence[tuple[int, ...]]) -> None:
    for (label, mine), (other, theirs) in permutations(zip(labels, ids, strict=True), 2):
        if mine == theirs:
            raise ValueError(
                f"Labels {label!r} and {other!r} have the same tokens in this tokenizer, so no "
                "score can tell them apart. Every label must have tokens of its own. Use another "
                "tokenizer, or rename one of them."
            )
        if mine == theirs[: len(mine)]:
            raise ValueError(
                f"Label {label!r} is the beginning of label {other!r}: a decoder that stops at "
                "the first whole label could never write the longer one. Rename one of them."
            )


def _branch(text: str, ids: tuple[int, ...], encode: Callable[[str], tuple[int, ...]]) -> str:
    """Return the beginning of a label's text that has these tokens, the label's first ones."""
    for end in range(1, len(text) + 1):
        if encode(text[:end]) == ids:
            return text[:end]
    raise ValueError(
        f"The first {len(ids)} tokens of label {text[1:]!r} are those of no beginning of its text "
        "with this tokenizer, so no log-likelihood of a text tells what greedy decoding does. Use "
        "labels that it cuts at words; for TREC, the tasks *_lceg, which generate."
    )
