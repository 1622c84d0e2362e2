"""Builds the mini tasks: needles and text in held-out modules of the Python standard library.

Every sample is drawn once and then shown at each length: the same end of text, the same keys and
values, the same depths; only more text stands before. So lengths can be compared.
"""

import random
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ctxbench.core.settings import Count, Whole, read_settings
from ctxbench.core.stdlib_corpus import NOUNS, held_out_files
from ctxbench.tasks.documents import as_dataset
from ctxbench.tasks.tokenizer import count_tokens, load_tokenizer, tokenizer_name

LONGEST = 4096
"""Every document holds this many tokens before each sample's end, whatever the length asked for."""
TAIL = 64
"""Tokens of plain text between the last needle and the question, and scored by `mini_ppl`."""
ANSWER = 8
"""Tokens left for the answer of a needle."""
BUCKET = 64
"""Positions per point of the loss by position."""


@dataclass(frozen=True)
class Document:
    """A held-out module, tokenised.

    Attributes:
        name: relative to the standard library.
        text: of the module.
        starts: character at which each token starts; see `token_starts`.
        line_ends: characters that are newlines after something other than a newline or space.
    """

    name: str
    text: str
    starts: tuple[int, ...]
    line_ends: tuple[int, ...]

    def token_at(self, character: int) -> int:
        """Return the number of tokens that start before a character."""
        return bisect_right(self.starts, character - 1)


def token_starts(encode: Any, text: str) -> tuple[int, ...]:
    """Return the character at which each token starts.

    A tokenizer that does not say so has its tokens spread over their lines: prompts are counted
    anew in any case.
    """
    if encode.is_fast:
        found = encode(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return tuple(start for start, _ in found["offset_mapping"])
    starts, begin = [], 0
    for line in text.splitlines(keepends=True):
        count = count_tokens(encode, line)
        starts += [begin + len(line) * token // count for token in range(count)]
        begin += len(line)
    whole = count_tokens(encode, text)
    return tuple(starts[token * len(starts) // whole] for token in range(whole))


@lru_cache(maxsize=4)
def documents(tokenizer: str) -> tuple[Document, ...]:
    """Return the held-out modules that are longer than `LONGEST` tokens.

    Raises:
        ValueError: this Python's standard library has none.
    """
    encode = load_tokenizer(tokenizer)
    found = []
    for name, text in held_out_files():
        starts = token_starts(encode, text)
        if len(starts) > LONGEST + TAIL:
            ends = (i for i in range(1, len(text)) if text[i] == "\n" and not text[i - 1].isspace())
            found.append(Document(name, text, starts, tuple(ends)))
    if not found:
        raise ValueError(
            f"No held-out module of this Python's standard library has {LONGEST} tokens of the "
            f"tokenizer {tokenizer}. The mini tasks need a complete standard library (its .py "
            "files); use a Python installation that has one."
        )
    return tuple(found)


@dataclass(frozen=True)
class Draw:
    """What a sample is, before a length is chosen.

    Attributes:
        document: where its text is from.
        end: character at which the text ends, a line end.
        facts: (key, value) lines to hide; the first ones are asked for.
        depths: place of each in the text before the tail, 0 is the start.
    """

    document: Document
    end: int
    facts: tuple[tuple[str, str], ...]
    depths: tuple[float, ...]


def draw(tokenizer: str, number: int, keys: int, asked: int, seed: int) -> Draw:
    """Draw sample `number` with `keys` facts; the depth of a single asked one is stratified."""
    rng = random.Random(f"{seed}/{number}/{keys}/{asked}")
    texts = documents(tokenizer)
    document = texts[number % len(texts)]
    # line ends with more than LONGEST tokens before them
    first = bisect_right(document.line_ends, document.starts[LONGEST])
    end = rng.choice(document.line_ends[first:])
    nouns = rng.sample(NOUNS, keys)
    facts = tuple((noun, f"{rng.randrange(10000):04d}") for noun in nouns)
    depths = [rng.random() for _ in facts]
    if asked == 1:
        depths[0] = (number % 10 + 0.5) / 10
    return Draw(document, end, facts, tuple(depths))


def place(sample: Draw, tokens: int) -> str:
    """Return the text before the sample's end, about `tokens` tokens of it, with its facts hidden.

    A fact is a line of its own, `# falcon 4821`, at the line end nearest to its depth.
    """
    document = sample.document
    last = document.token_at(sample.end)
    start = document.starts[last - tokens]
    body_end = document.starts[max(last - TAIL, last - tokens)]
    lines = [i for i in document.line_ends if start < i <= body_end] or [start]
    wanted = [start + depth * (body_end - start) for depth in sample.depths]
    spots = sorted(
        (min(lines, key=lambda line: abs(line - want)), number)
        for number, want in enumerate(wanted)
    )
    parts, at = [], start
    for spot, number in spots:
        noun, value = sample.facts[number]
        parts += [document.text[at:spot], f"\n# {noun} {value}"]
        at = spot
    return "".join([*parts, document.text[at : sample.end]])


def fit(sample: Draw, question: str, budget: int, encode: Any) -> tuple[str, int]:
    """Return text plus question of at most `budget` tokens, and how many it has.

    Raises:
        ValueError: the facts alone do not fit.
    """
    tokens = budget
    while tokens > TAIL:
        prompt = place(sample, tokens) + question
        count = count_tokens(encode, prompt, special_tokens=True)
        if count <= budget:
            return prompt, count
        tokens -= count - budget
    raise ValueError(
        f"{len(sample.facts)} hidden lines and {TAIL} tokens of text do not fit {budget} tokens of "
        "this tokenizer. Use the task at a longer length."
    )


# ------------------------------------------------------------------ data sets


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may choose in `--metadata`, beside the `tokenizer`.

    Attributes:
        samples: documents; of a windows task modules, at most all that are long enough.
        seed: of the draws.
    """

    samples: Count = 50
    seed: Whole = 1


def _options(metadata: dict[str, Any], **defaults: int) -> tuple[Options, str]:
    """Return the options, and the name of the tokenizer."""
    options = read_settings(Options, {**defaults, **metadata}, "Metadata", strict=False)
    return options, tokenizer_name(**{"pretrained": "mini", **metadata})


def needle(*, ctx_length: int, ctx_distractors: int = 3, **metadata: Any) -> dict[str, Any]:
    """Return the documents of a needle task.

    Args:
        ctx_length: prompt and answer together, tokens.
        ctx_distractors: further hidden lines with other keys.
        metadata: `Options`; `tokenizer` or `pretrained` names the tokenizer.
    """
    options, name = _options(metadata)
    encode = load_tokenizer(name)
    docs = []
    for number in range(options.samples):
        sample = draw(name, number, ctx_distractors + 1, 1, options.seed)
        key, value = sample.facts[0]
        prompt, tokens = fit(sample, f"\n# {key}", ctx_length - ANSWER, encode)
        docs.append(
            {
                "prompt": prompt,
                "answer": value,
                "key": key,
                "depth": sample.depths[0],
                "run": number // 10,
                "length": ctx_length,
                "tokens": tokens,
                "module": sample.document.name,
            }
        )
    return as_dataset(docs)


def multiquery(
    *, ctx_length: int, ctx_keys: int = 8, ctx_asked: int = 4, **metadata: Any
) -> dict[str, Any]:
    """Return the documents of a multi-query task: several keys, some asked in a row.

    Each question comes after the right answers to those before it.
    """
    options, name = _options(metadata, samples=40)
    encode = load_tokenizer(name)
    docs = []
    for number in range(options.samples):
        sample = draw(name, number, ctx_keys, ctx_asked, options.seed)
        asked = sample.facts[:ctx_asked]
        lines = [f"\n# {key} {value}" for key, value in asked]
        text, tokens = fit(sample, "".join(lines), ctx_length, encode)
        before = text[: len(text) - len("".join(lines))]
        contexts = [before + "".join(lines[:i]) + f"\n# {key}" for i, (key, _) in enumerate(asked)]
        docs.append(
            {
                "contexts": contexts,
                "answers": [value for _, value in asked],
                "depths": list(sample.depths[:ctx_asked]),
                "length": ctx_length,
                "tokens": tokens,
                "module": sample.document.name,
            }
        )
    return as_dataset(docs)


def perplexity(*, ctx_length: int, **metadata: Any) -> dict[str, Any]:
    """Return the documents of a perplexity task: the same target text at every length."""
    options, name = _options(metadata)
    encode = load_tokenizer(name)
    docs = []
    for number in range(options.samples):
        sample = draw(name, number, 1, 1, options.seed)
        document = sample.document
        split, last = sample.end, document.token_at(sample.end)
        end = document.starts[min(last + TAIL, len(document.starts) - 1)]
        target = document.text[split:end]
        tokens = ctx_length - (document.token_at(end) - last)
        while True:
            context = document.text[document.starts[last - tokens] : split]
            total = count_tokens(encode, context + target, special_tokens=True)
            if total <= ctx_length:
                break
            tokens -= total - ctx_length
        own = total - count_tokens(encode, context, special_tokens=True)
        docs.append(
            {
                "context": context,
                "target": target,
                "target_tokens": own,
                "length": ctx_length,
                "tokens": total,
                "module": document.name,
            }
        )
    return as_dataset(docs)


def windows(*, ctx_length: int, **metadata: Any) -> dict[str, Any]:
    """Return the shards of a windows task: one per module, disjoint windows over its middle.

    The same tokens are scored at every length, all but the first of each window.

    Args:
        ctx_length: tokens per window; divides `LONGEST`.
        metadata: `Options`; `tokenizer` or `pretrained` names the tokenizer.

    Returns:
        `{"test": shards, "shared": all token ids}`, as `ctxbench.tasks.perplexity.dataset.shards`.
    """
    import numpy as np

    from ctxbench.tasks.perplexity.dataset import bytes_per_token

    options, name = _options(metadata, samples=12)
    encode = load_tokenizer(name)
    rows, parts = [], []
    for number, document in enumerate(documents(name)[: options.samples]):
        ids = encode(document.text, add_special_tokens=False, verbose=False).input_ids
        middle = (len(ids) - LONGEST) // 2
        parts.append(np.asarray(ids[middle : middle + LONGEST], dtype=np.int64))
        starts = range(number * LONGEST, (number + 1) * LONGEST, ctx_length)
        rows.append(
            {
                "source": "stdlib",
                "module": document.name,
                "document": number,
                "protocol": "overlap",
                "stride": ctx_length,
                "chunk": 0,
                "bucket": BUCKET,
                "windows": [(start, start + 1, start + ctx_length) for start in starts],
                "skipped": 0,
            }
        )
    ids = np.concatenate(parts)
    ratio = bytes_per_token(ids, encode)
    return as_dataset([{**row, "bytes_per_token": ratio} for row in rows], shared=ids)
