"""RULER's question answering: SQuAD or HotpotQA paragraphs among others of the same data set.

Reference: github.com/NVIDIA/RULER, scripts/data/synthetic/qa.py. There the paragraph with the
answer always comes at the same place (a fresh `Random(seed)` shuffles the documents); in `strict`
it lies at a depth of its own.
"""

import functools
import hashlib
import heapq
import json
import random
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ctxbench.core.assets import require_data
from ctxbench.tasks.ruler import templates
from ctxbench.tasks.ruler.family import Family, Sample, Spec
from ctxbench.tasks.ruler.stream import Stream
from ctxbench.tasks.token_count import CountedText, PromptPart, TokenCounter, units

_GET = {
    "squad": "Run `ctxbench data fetch ruler`: SQuAD 2.0's dev-v2.0.json "
    "(rajpurkar.github.io/SQuAD-explorer).",
    "hotpotqa": "Run `ctxbench data fetch ruler`: HotpotQA's hotpot_dev_distractor_v1.json "
    "(hotpotqa.github.io).",
}
_NAMES = {
    "squad": ("squad.json", "dev-v2.0.json"),
    "hotpotqa": ("hotpotqa.json", "hotpot_dev_distractor_v1.json"),
}
_SPARE = 50  # documents a strict sample tries to fill its last gap with


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        text: the question.
        answers: any of them is right.
        own: documents that belong to it, the answer's among them.
        gold: the documents that support the answer.
        near: further documents of the same article, taken before others.
    """

    text: str
    answers: list[str]
    own: list[int]
    gold: list[int]
    near: list[int]


@dataclass(frozen=True)
class Corpus:
    """Questions and the documents they are asked about."""

    questions: list[Question]
    documents: list[str]
    digest: str


def _read_squad(articles: list[dict]) -> tuple[list[Question], list[str]]:
    paragraphs = [[p["context"] for p in article["paragraphs"]] for article in articles]
    documents = sorted({text for article in paragraphs for text in article})
    place = {text: n for n, text in enumerate(documents)}
    questions = [
        Question(
            text=question["question"],
            answers=[answer["text"] for answer in question["answers"]],
            own=[place[paragraph["context"]]],
            gold=[place[paragraph["context"]]],
            near=[place[text] for text in texts if text != paragraph["context"]],
        )
        for article, texts in zip(articles, paragraphs, strict=True)
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
        if not question["is_impossible"]
    ]
    return questions, documents


def _read_hotpotqa(rows: list[dict]) -> tuple[list[Question], list[str]]:
    def texts(row: dict) -> list[str]:
        return [f"{title}\n{''.join(sentences)}" for title, sentences in row["context"]]

    documents = sorted({text for row in rows for text in texts(row)})
    place = {text: n for n, text in enumerate(documents)}
    questions = []
    for row in rows:
        own = [place[text] for text in texts(row)]
        titles = {title for title, _ in row.get("supporting_facts", [])}
        gold = [n for n, (title, _) in zip(own, row["context"], strict=True) if title in titles]
        questions.append(Question(row["question"], [row["answer"]], own, gold or own, []))
    return questions, documents


@functools.lru_cache(maxsize=4)
def _load(path: Path, name: str) -> Corpus:
    text = path.read_bytes()
    try:
        data = json.loads(text)
        read = _read_squad(data["data"]) if name == "squad" else _read_hotpotqa(data)
    except (ValueError, KeyError, TypeError, AttributeError) as damage:
        raise ValueError(
            f"{path} is not the expected file ({type(damage).__name__}: {damage}). {_GET[name]}"
        ) from damage
    return Corpus(*read, digest=hashlib.sha256(text).hexdigest()[:16])


def load_corpus(name: str, data_dir: str | None = None) -> Corpus:
    """Load squad or hotpotqa from a local file in its published form.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    return _load(require_data(*_NAMES[name], get=_GET[name], data_dir=data_dir), name)


@dataclass
class QuestionAnswering(Family):
    """Questions in the order of the file, each among documents. Units: documents."""

    dataset: str = "squad"
    new_tokens: int = field(init=False, default=32)

    def __post_init__(self):
        self._template = templates.template("qa")
        self._mark = templates.document().split("{document}")[0]
        self._bodies: dict[int, list[PromptPart]] = {}

    @cached_property
    def corpus(self) -> Corpus:
        """Return the questions and documents."""
        return load_corpus(self.dataset, self.settings.data_dir)

    @property
    def step(self) -> int:
        """Official: 10 documents."""
        return 10

    @property
    def most_units(self) -> int:
        """Return where LCEG stops: all documents."""
        return len(self.corpus.documents)

    @property
    def questions(self) -> int:
        """Return how many questions the file has."""
        return len(self.corpus.questions)

    def hopeless(self, counter: TokenCounter, size: int, index: int) -> bool:
        """Say whether the question's documents are too long even with the shortest others."""
        question = self.corpus.questions[index]
        more = size - len(question.own)
        if more < 0:
            return True
        pool = question.near if more <= len(question.near) else range(len(self.corpus.documents))
        shortest = heapq.nsmallest(more, pool, key=lambda n: len(self.corpus.documents[n]))
        spec = {"size": size, "question": index, "documents": [*question.own, *shortest]}
        # Fewest characters are not quite fewest tokens, so this leaves some room.
        return self.count(counter, self.sample(spec)) > 1.1 * self.settings.length

    def draw(self, stream: Stream, size: int, index: int) -> Spec:
        """Choose documents as the official code does: its own, of the same article, others."""
        question, count = self.corpus.questions[index], len(self.corpus.documents)
        if size >= count:
            # LCEG takes every document once; the official code begins again.
            times = 1 if self.settings.fidelity == "lceg" else -(-size // count)
            chosen = [*range(count)] * times
            chosen = chosen if self.settings.fidelity == "lceg" else chosen[:size]
        elif size - len(question.own) > len(question.near):
            taken = {*question.own, *question.near}
            others = [n for n in range(count) if n not in taken]
            chosen = [*question.own, *question.near]
            chosen += stream.sample(others, max(0, size - len(chosen)))
        else:
            chosen = question.own + stream.sample(question.near, size - len(question.own))
        random.Random(self.settings.seed).shuffle(chosen)
        return {"size": size, "question": index, "documents": chosen}

    def draw_strict(self, stream: Stream, size: int, index: int, depth: float) -> Spec:
        """Put the answer's document at `depth` among `size` others in random order."""
        question, count = self.corpus.questions[index], len(self.corpus.documents)
        gold = stream.choice(question.gold)
        near = stream.sample([n for n in question.own if n != gold], len(question.own) - 1)
        near += stream.sample(question.near, len(question.near))
        taken = {gold, *near}
        far = [n for n in range(count) if n not in taken]
        others = near + stream.sample(far, len(far))
        while len(others) < size and others:  # a small corpus begins again, without the gold
            others += others[: size - len(others)]
        spec = self._arrange(index, gold, others[:size], depth)
        return spec | {"_others": others[size:]}

    def _arrange(self, index: int, gold: int, others: list[int], depth: float) -> Spec:
        order = random.Random(self.own_seed(index)).sample(others, len(others))
        place = int(depth * (len(order) + 1))
        documents = [*order[:place], gold, *order[place:]]
        return {"size": len(others), "question": index, "documents": documents, "gold": place}

    @property
    def fewest_units(self) -> int:
        """Return 0: the answer's document is not counted."""
        return 0

    def sample(self, spec: Spec) -> Sample:
        """Make the prompt."""
        question = self.corpus.questions[spec["question"]]
        head, tail = self._template.body.replace("{query}", question.text, 1).split("{context}", 1)
        documents = spec["documents"]
        parts: list[PromptPart] = [head]
        for number, place in enumerate(documents, 1):
            mark = self._mark.format(i=number)
            parts += [mark if number == 1 else f"\n\n{mark}", *self._body(place)]
        gold = spec.get("gold")
        if gold is None:
            gold = documents.index(question.gold[0])
        return Sample(
            parts=[*parts, tail],
            prefix=self._template.prefix,
            outputs=question.answers,
            depth=(gold + 0.5) / len(documents),
        )

    def _body(self, place: int) -> list[PromptPart]:
        """Return a document as its first and last unit, and what is between by its sum."""
        if place not in self._bodies:
            text = self.corpus.documents[place]
            pieces = units(text)
            self._bodies[place] = [text]
            if len(pieces) > 3:
                inside = text[len(pieces[0]) : -len(pieces[-1]) - 1]
                counted = CountedText(lambda: inside, lambda counter: counter.inside(inside))
                self._bodies[place] = [pieces[0], counted, f" {pieces[-1]}"]
        return self._bodies[place]

    def fill(
        self, counter: TokenCounter, index: int, depth: float, guess: int
    ) -> tuple[Spec, Sample, int]:
        """Fill with documents in random order, then with the largest ones that still fit."""
        spec, sample, tokens = super().fill(counter, index, depth, guess)
        texts = self.corpus.documents
        spare = {n: counter.behind_a_word(texts[n]) for n in spec["_others"][:_SPARE]}
        for place in sorted(spare, key=lambda n: -spare[n]):
            if tokens + spare[place] > self.settings.length:
                continue
            gold = spec["documents"][spec["gold"]]
            others = [n for k, n in enumerate(spec["documents"]) if k != spec["gold"]]
            fuller = self._arrange(index, gold, [*others, place], depth)
            fuller_sample = self.sample(fuller)
            count = self.count(counter, fuller_sample)
            if count <= self.settings.length:
                spec, sample, tokens = fuller, fuller_sample, count
        return spec, sample, tokens
