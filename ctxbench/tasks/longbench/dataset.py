"""LongBench's rows, read from a folder or the hub, made into prompts that fit a budget."""

import logging
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ctxbench.core.assets import find_data
from ctxbench.core.errors import named_for
from ctxbench.core.lengths import length_name
from ctxbench.core.settings import read_settings
from ctxbench.core.text_files import check_text, explained, json_objects, read_records
from ctxbench.tasks.documents import as_dataset
from ctxbench.tasks.hub import HubFile
from ctxbench.tasks.longbench import metrics
from ctxbench.tasks.longbench.prompts import load_prompt
from ctxbench.tasks.longbench.truncation import Decoder, truncate_middle
from ctxbench.tasks.model_window import check_task_length
from ctxbench.tasks.tokenizer import count_tokens, load_tokenizer, tokenizer_name

log = logging.getLogger(__name__)

ARCHIVE = HubFile(
    repo="zai-org/LongBench",  # THUDM/LongBench moved here
    filename="data.zip",
    revision="5e628be450b7e67fb7ae6e201bd6d8f7056f7672",
    family="longbench",
)
ADVICE = "Fetch the official data.zip again."
COLUMNS = ("input", "context", "answers", "length", "all_classes")
# pred.py: few-shot and code prompts end in the middle of a pattern that a chat turn would break.
NEVER_CHAT = frozenset({"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"})
# Prompt tokens for a window of so many tokens. Official: model2maxlen.json gives every model of a
# window 500 less than its thousands, room for the longest answer. LCEG: the whole window.
BUDGETS: dict[str, Callable[[int], int]] = {
    "official": lambda window: window // 1024 * 1000 - 500,
    "lceg": lambda window: window,
}
# LongBench's own runs had Llama's slow tokenizer, those of the paper its fast one.
DECODERS: dict[str, Decoder] = {"official": "sentencepiece", "lceg": "tokenizers"}
# pred.py build_chat, by model family; no space, no system text.
WRAPPINGS = {"llama2": "[INST]{}[/INST]"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may choose in `--metadata`.

    Attributes:
        budget: `official` leaves room for the answer, `lceg` does not, as the paper's runs: such a
            prompt may pass the window, which the model `ctxext` is told is meant.
        wrapping: `harness` leaves chats to `--apply_chat_template`; `llama2` is what LongBench's
            own runs wrote around Llama-2-chat's prompts: after the cut, never for `NEVER_CHAT`.
        data_dir: searched before `CTXBENCH_DATA`.
        templates: `unchecked` goes on with a prompt that is not the one that was checked.
    """

    budget: Literal["official", "lceg"] = "official"
    wrapping: Literal["harness", "llama2"] = "harness"
    data_dir: str | None = None
    templates: Literal["checked", "unchecked"] = "checked"


def docs(ctx_dataset: str, ctx_length: int, **metadata: Any) -> dict[str, Any]:
    """Build the prompts of one task (lm-eval calls this as `custom_dataset`).

    All that scoring needs is looked at here, hours before it.

    Args:
        ctx_dataset: a LongBench name, with `_e` for LongBench-E.
        ctx_length: the model's window, tokens.
        metadata: `Options`, and what names the tokenizer.

    Raises:
        ValueError: an option is not allowed; wrong columns; nothing in the file; the model's
            window is shorter than `ctx_length`.
        FileNotFoundError: no data.
        ImportError: a package that scores this data set is not installed.
    """
    task = f"longbench_{length_name(ctx_length)}_{ctx_dataset}"
    with named_for(task):
        metrics.check_packages(ctx_dataset)
        check_task_length(ctx_length, task, metadata)
        return as_dataset(_rows(ctx_dataset, ctx_length, metadata))


def _rows(ctx_dataset: str, ctx_length: int, metadata: dict[str, Any]) -> list[dict]:
    options = read_settings(Options, metadata, "Metadata", strict=False)
    tokenizer = load_tokenizer(tokenizer_name(**metadata))
    prompt = load_prompt(ctx_dataset.removesuffix("_e"), options.templates)
    rows, skipped = [], 0
    for row in read_rows(ctx_dataset, options.data_dir):
        if not row["context"].strip() or not row["answers"]:
            skipped += 1
            continue
        text, before, after = truncate_middle(
            prompt.fill(row),
            tokenizer,
            BUDGETS[options.budget](ctx_length),
            DECODERS[options.budget],
        )
        truncated = after < before
        chat = WRAPPINGS.get(options.wrapping)
        if chat and ctx_dataset.removesuffix("_e") not in NEVER_CHAT:
            text = chat.format(text)
            after = count_tokens(tokenizer, text, special_tokens=True)
        past = after + prompt.max_gen_toks > ctx_length
        rows.append(
            {
                "dataset": ctx_dataset,
                "prompt": text,
                "answers": row["answers"],
                "all_classes": row["all_classes"],
                "length": row["length"],
                "prompt_tokens": after,
                "full_tokens": before,
                "truncated": truncated,
                "wrapping": options.wrapping,
                "past_window": past,
                "may_pass_window": past and options.budget == "lceg",
            }
        )
    if not rows:
        raise ValueError(
            f"{ctx_dataset}.jsonl has no row to ask ({skipped} without context or answer); every "
            f"row needs {', '.join(COLUMNS)}. Fetch the file again."
        )
    if skipped:
        log.warning("%d rows of %s left out: no context or no answer", skipped, ctx_dataset)
    return rows


def read_rows(dataset: str, data_dir: str | None = None) -> Iterator[dict]:
    """Yield the rows of a data set.

    Looks for `LongBench/DATASET.jsonl`, `LongBench/data/DATASET.jsonl` and `LongBench/data.zip`
    (also `longbench/`), then asks the hub for the official archive.

    Raises:
        ValueError: the file or a line of it is damaged, or lacks a column.
        FileNotFoundError: no data.
    """
    folders = ("LongBench", "longbench")
    names = [f"{f}/{inner}{dataset}.jsonl" for f in folders for inner in ("", "data/")]
    if path := find_data(*names, data_dir=data_dir):
        rows = read_records(path, COLUMNS, advice=ADVICE)
    else:
        path = find_data(*(f"{f}/data.zip" for f in folders), data_dir=data_dir) or ARCHIVE.fetch()
        rows = _archived(path, dataset)
    for where, row in rows:
        if missing := [column for column in COLUMNS if column not in row]:
            raise ValueError(
                f"{where} has the columns {', '.join(row)} and lacks {', '.join(missing)}. The "
                f"official rows have {', '.join(COLUMNS)}. {ADVICE}"
            )
        for column in ("input", "context"):
            check_text(row[column], f"{where}: {column}", ADVICE)
        if not isinstance(row["answers"], list):
            raise ValueError(f"{where}: answers is no list, but must be one of texts. {ADVICE}")
        for answer in row["answers"]:
            check_text(answer, f"{where}: an answer", ADVICE)
        metrics.check_row(dataset, row, where, ADVICE)
        yield row


def _archived(archive: Path, dataset: str) -> Iterator[tuple[str, dict]]:
    with explained(archive, ADVICE), zipfile.ZipFile(archive) as files:
        name = f"data/{dataset}.jsonl"
        if name not in files.namelist():
            raise FileNotFoundError(
                f"{archive.name} has no {name}; it has {len(files.namelist())} other files. The "
                "official archive has 34 data sets. Fetch it again."
            )
        with files.open(name) as lines:
            yield from json_objects(lines, f"{archive}: {dataset}.jsonl", ADVICE)


def process_results(doc: dict, results: list[str]) -> dict:
    """Score one generation both ways and count what the budget did."""
    arguments = (doc["dataset"], results[0], doc["answers"], doc["all_classes"])
    score = metrics.score(*arguments)
    values = {
        "score": score,
        "score_lceg": metrics.score_lceg(*arguments),
        "truncated": float(doc["truncated"]),
        "past_window": float(doc["past_window"]),
    }
    if doc["dataset"].endswith("_e"):
        values[length_bin(doc["length"])] = score
    return values


def length_bin(words: int) -> str:
    """Return the LongBench-E bin of a text (eval.py: its length is counted in words)."""
    return "score_0_4k" if words < 4000 else "score_4k_8k" if words < 8000 else "score_8k_up"
