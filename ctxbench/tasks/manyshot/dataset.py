"""Prompts of many-shot classification: nested shots in several runs, questions, labels to score."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ctxbench.core.errors import named_for
from ctxbench.core.settings import Count, Whole, read_settings
from ctxbench.tasks.documents import as_dataset
from ctxbench.tasks.longbench import metrics
from ctxbench.tasks.longbench.prompts import load_prompt
from ctxbench.tasks.longbench.truncation import truncate_middle
from ctxbench.tasks.manyshot import mini, trec
from ctxbench.tasks.manyshot.labels import greedy_label, label_trie
from ctxbench.tasks.model_window import check_task_length, model_window
from ctxbench.tasks.tokenizer import count_tokens, load_tokenizer, tokenizer_name

LCEG_MAX_GEN = 64  # tokens; LCEG longbench/config/dataset2maxlen.json, as for LongBench's trec


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a shot is written: the query, a space, the label; and what stands between two."""

    query: str
    separator: str

    def shot(self, question: str, label: str) -> str:
        """Return one shot."""
        return f"{self.query.format(question)} {label}"

    def shots(self, pairs: Sequence[tuple[str, str]]) -> str:
        """Return all shots, each with a separator after it."""
        return "".join(self.shot(*pair) + self.separator for pair in pairs)


BERTSCH = Format(query="Question: {}\nType:", separator="\n==\n")
LCEG = Format(query="Question: {}\nType:", separator="\n")  # as LongBench's trec rows
MINI = Format(query="# {}", separator="\n")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One order of shots and what is asked after it."""

    labels: list[str]
    shots: list[tuple[str, str]]
    questions: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Shots:
    """What the questions of a task share.

    Attributes:
        runs: the shots of every run as text.
        query: format of a question.
    """

    runs: list[str]
    query: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may choose in `--metadata`.

    Attributes:
        runs: orders of shots.
        seed: draws the orders.
        samples: questions per run.
        lceg_window: tokens the paper's form is cut to, without room for the answer as in the paper,
            which gave its base model 4096 and the extended ones 32768.
        data_dir: searched before `CTXBENCH_DATA`.
        templates: `unchecked` goes on with a prompt that is not the one that was checked.
    """

    runs: Count = 10
    seed: Whole = trec.SEED
    samples: Count = trec.TEST_QUESTIONS
    lceg_window: Count = 32768
    data_dir: str | None = None
    templates: Literal["checked", "unchecked"] = "checked"


def trec_run(granularity: str, shots: int, run: int, options: Options) -> Run:
    """Return a run of TREC: training questions as shots, test questions asked.

    Raises:
        ValueError: more questions than the 250 that Bertsch et al. drew.
    """
    if options.samples > trec.TEST_QUESTIONS:
        raise ValueError(
            f"Metadata samples={options.samples}; allowed is up to {trec.TEST_QUESTIONS} "
            "questions a run, those of the published runs. Give fewer samples, or more runs."
        )
    train = trec.read_questions("train_5500.label", options.data_dir)
    test = trec.read_questions("TREC_10.label", options.data_dir)

    def pair(code: str, question: str) -> tuple[str, str]:
        return question, trec.label_of(code, granularity)

    return Run(
        labels=list((trec.COARSE if granularity == "coarse" else trec.FINE).values()),
        shots=[pair(*train[line]) for line in trec.shot_lines(run, options.seed)[:shots]],
        questions=[pair(*test[line]) for line in trec.asked_lines(options.samples)],
    )


def mini_run(shots: int, run: int, seed: int, questions: int) -> Run:
    """Return a run of the mini task: the first words of its dictionary, or all, are asked."""
    labels, entries = mini.dictionary(run, seed)
    return Run(
        labels=labels,
        shots=mini.shots(entries, run, seed)[:shots],
        questions=entries[:questions],
    )


def docs(ctx_labels: str, ctx_shots: int, **metadata: Any) -> dict[str, Any]:
    """Build the questions of one task (lm-eval calls this as `custom_dataset`).

    Args:
        ctx_labels: `coarse` or `fine` (TREC), or `mini`.
        ctx_shots: shots in the prompt.
        metadata: `Options`, and what names the tokenizer, by whose tokens the label trie is made.

    Returns:
        `{"test": questions, "shared": Shots}`.

    Raises:
        ValueError: an option is not allowed; labels that cannot be told apart in this tokenizer's
            tokens; a prompt longer than the model's window.
        FileNotFoundError: no data.
    """
    family = "mini_manyshot" if ctx_labels == "mini" else f"trec_{ctx_labels}"
    task = f"{family}_{ctx_shots}shot"
    with named_for(task):
        return _docs(task, ctx_labels, ctx_shots, metadata)


def _docs(task: str, ctx_labels: str, ctx_shots: int, metadata: dict[str, Any]) -> dict:
    options = read_settings(Options, metadata, "Metadata", strict=False)
    tokenizer = load_tokenizer(tokenizer_name(**metadata))
    written = MINI if ctx_labels == "mini" else BERTSCH
    rows, prompts = [], []
    for number in range(options.runs):
        if ctx_labels == "mini":
            run = mini_run(ctx_shots, number, options.seed, options.samples)
        else:
            run = trec_run(ctx_labels, ctx_shots, number, options)
        prompts.append(written.shots(run.shots))
        trie = asdict(label_trie(run.labels, tokenizer, written.query.format("x")))
        rows += [
            {"run": number, "question": question, "label": run.labels.index(label), **trie}
            for question, label in run.questions
        ]
    if model_window(metadata) is not None:
        questions = [written.query.format(row["question"]) for row in rows]
        longest = max(questions, key=len) + max(rows[0]["continuations"], key=len)
        sizes = (count_tokens(tokenizer, text + longest, special_tokens=True) for text in prompts)
        check_task_length(max(sizes), task, metadata)
    return as_dataset(rows, shared=Shots(runs=prompts, query=written.query))


def lceg_docs(ctx_labels: str, ctx_shots: int, **metadata: Any) -> dict[str, Any]:
    """Build the paper's form of the task: LongBench's trec prompt, generated and cut.

    Args:
        ctx_labels: `coarse` or `fine`. The paper does not say which it used.
        ctx_shots: shots in the prompt, before the middle is cut out.
        metadata: `Options` (the paper has one run), and what names the tokenizer.
    """
    task = f"trec_{ctx_labels}_{ctx_shots}shot_lceg"
    with named_for(task):
        rows = _lceg_rows(task, ctx_labels, ctx_shots, metadata)
    return as_dataset(rows)


def _lceg_rows(task: str, ctx_labels: str, ctx_shots: int, metadata: dict[str, Any]) -> list[dict]:
    options = read_settings(Options, {"runs": 1, **metadata}, "Metadata", strict=False)
    tokenizer = load_tokenizer(tokenizer_name(**metadata))
    prompt = load_prompt("trec", options.templates)
    rows = []
    for number in range(options.runs):
        run = trec_run(ctx_labels, ctx_shots, number, options)
        context = LCEG.shots(run.shots).removesuffix(LCEG.separator)
        for question, label in run.questions:
            full = prompt.fill({"context": context, "input": LCEG.query.format(question)})
            text, before, after = truncate_middle(full, tokenizer, options.lceg_window)
            rows.append(
                {
                    "dataset": "trec",
                    "run": number,
                    "prompt": text,
                    "answers": [label],
                    "all_classes": run.labels,
                    "prompt_tokens": after,
                    "truncated": after < before,
                    "may_pass_window": after + LCEG_MAX_GEN > options.lceg_window,
                }
            )
    # A prompt that is meant to leave no room for its answer takes the window it was cut to.
    needs = (
        options.lceg_window if row["may_pass_window"] else row["prompt_tokens"] + LCEG_MAX_GEN
        for row in rows
    )
    check_task_length(max(needs), task, metadata)
    return rows


def process_results(doc: dict, results: list[tuple[float, bool]]) -> dict:
    """Score one question by label likelihood and by greedy decoding over the labels."""
    scores = [loglikelihood for loglikelihood, _ in results]
    labels = len(doc["paths"])
    likeliest = max(range(labels), key=lambda label: scores[label])
    acc = float(likeliest == doc["label"])
    constrained = float(greedy_label(scores, doc["paths"]) == doc["label"])
    return {
        "acc": acc,
        "acc_constrained": constrained,
        "acc_sd": (doc["run"], acc),
        "acc_constrained_sd": (doc["run"], constrained),
    }


def process_lceg(doc: dict, results: list[str]) -> dict:
    """Score one generation as LongBench scores its trec."""
    acc = metrics.score("trec", results[0], doc["answers"], doc["all_classes"])
    return {
        "acc_lceg": acc,
        "acc_lceg_sd": (doc["run"], acc),
        "truncated": float(doc["truncated"]),
    }


def spread(items: Sequence[tuple[int, float]]) -> float:
    """Return the standard deviation of the accuracy over runs; NaN for a single run.

    Args:
        items: (run, correct) per question.
    """
    runs = defaultdict(list)
    for run, correct in items:
        runs[run].append(correct)
    if len(runs) < 2:
        return math.nan
    return statistics.stdev(statistics.fmean(values) for values in runs.values())
