"""Greedy decoding over a trie of labels, out of plain log-likelihood requests.

Bertsch et al. 2024 (arXiv 2405.00200) let the model write a label token by token, only tokens that
continue some label being allowed, and stop as soon as one label is left. At a branching the model
takes the likeliest allowed token, that is, the branch whose text so far has the highest
log-likelihood: all branches share what came before. So the log-likelihoods of the branches' texts
decide, and any model that can score a continuation can be decoded this way.
"""

from collections.abc import Sequence
from dataclasses import dataclass


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
        tokenizer: a fast tokenizer (character offsets are needed).
        before: how every prompt ends, without the space.

    Raises:
        ValueError: the tokens of one label begin another, or the text of a branch is tokenised
            otherwise than within its label.
    """
    tokens = [_label_tokens(label, tokenizer, before) for label in labels]
    ids = [tuple(token for token, _ in label) for label in tokens]
    for label, mine in zip(labels, ids, strict=True):
        for other, theirs in zip(labels, ids, strict=True):
            if mine == theirs[: len(mine)] and label != other:
                raise ValueError(
                    f"Label {label!r} is the beginning of label {other!r}: a decoder that stops at "
                    "the first whole label could never write the longer one. Rename one of them."
                )
    continuations = [f" {label}" for label in labels]
    paths = []
    for label, mine in zip(labels, tokens, strict=True):
        path = []
        for depth in range(len(mine)):
            prefix = tuple(token for token, _ in mine[:depth])
            rivals = {other[depth] for other in ids if other[:depth] == prefix}
            if len(rivals) > 1:
                text = f" {label}"[: mine[depth][1]]
                if text not in continuations:
                    _check_branch(text, mine[: depth + 1], label, tokenizer, before)
                    continuations.append(text)
                path.append(continuations.index(text))
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


def _label_tokens(label: str, tokenizer, before: str) -> list[tuple[int, int]]:
    """Return (token, where its text ends in " label") of a label after a prompt."""
    start = len(tokenizer(before)["input_ids"])
    encoded = tokenizer(f"{before} {label}", return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    return [
        (token, end - len(before))
        for token, (_, end) in zip(ids[start:], offsets[start:], strict=True)
    ]


def _check_branch(text: str, within: list[tuple[int, int]], label: str, tokenizer, before: str):
    alone = [token for token, _ in _label_tokens(text[1:], tokenizer, before)]
    if alone != [token for token, _ in within]:
        raise ValueError(
            f"The beginning {text!r} of label {label!r} is tokenised otherwise than within it "
            f"({tokenizer.convert_ids_to_tokens(alone)}), so its log-likelihood does not tell what "
            "greedy decoding does. Use labels that this tokenizer cuts at words."
        )
