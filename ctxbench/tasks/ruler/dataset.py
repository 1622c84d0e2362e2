"""RULER's samples for lm-eval: options from metadata, specs from the cache, prompts on demand."""

import functools
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ctxbench.core.compat.templates import RULER, check_templates
from ctxbench.core.lengths import LADDER, length_name
from ctxbench.core.settings import Count, Whole, read_settings
from ctxbench.tasks import specs
from ctxbench.tasks.chat import chat_of
from ctxbench.tasks.documents import as_dataset
from ctxbench.tasks.essays import load_essays
from ctxbench.tasks.model_window import check_task_length
from ctxbench.tasks.ruler import templates, words
from ctxbench.tasks.ruler.family import DoesNotFit, Family, RulerSettings, Sample, Spec
from ctxbench.tasks.ruler.qa import load_corpus
from ctxbench.tasks.ruler.subtasks import SUBTASKS
from ctxbench.tasks.token_count import TokenCounter, fingerprint, make_recounted, render
from ctxbench.tasks.tokenizer import load_tokenizer, tokenizer_name

logger = logging.getLogger(__name__)

VERSION = 1  # of the generator: raise it when the same options give other samples


@dataclass(frozen=True)
class Options:
    """What a user may choose in `--metadata`.

    Attributes:
        samples: per leaf (the official 500).
        seed: of all random numbers (the official 42).
        fidelity: nvidia, lceg or strict; see README.md.
        unfit: a question that cannot fit is skipped for the next, or an error.
        chat: count and place the tokenizer's chat template (give --apply_chat_template too).
        data_dir: searched for local data before `CTXBENCH_DATA`.
        templates: `unchecked` goes on with prompt texts that are not those that were checked.
    """

    samples: Count = 500
    seed: Whole = 42
    fidelity: Literal["nvidia", "lceg", "strict"] = "nvidia"
    unfit: Literal["skip", "error"] = "skip"
    chat: bool = False
    data_dir: str | None = None
    templates: Literal["checked", "unchecked"] = "checked"

    def __post_init__(self):
        if self.chat and self.fidelity == "lceg":
            raise ValueError(
                "Metadata chat=true was given with fidelity='lceg', but that study evaluated base "
                "models without a chat template. Leave one of them out."
            )


def leaf_name(subtask: str, length: int) -> str:
    """Return the name of a leaf task."""
    return f"ruler_{length_name(length)}_{subtask}"


def load(ctx_subtask: str, ctx_length: int, **metadata: Any) -> dict[str, Any]:
    """Return one leaf's samples, for lm-eval's `custom_dataset`.

    Raises:
        ValueError: an option is not allowed, the model's window is too short, or no sample fits.
        FileNotFoundError: local data are missing; the message says how to get them.
    """
    check_task_length(ctx_length, leaf_name(ctx_subtask, ctx_length), metadata)
    found = get_specs(ctx_subtask, ctx_length, metadata)
    report_skips(found)
    options = read_settings(Options, metadata, "Metadata", strict=False)
    settings = asdict(_settings(ctx_length, options, metadata))
    common = {"subtask": ctx_subtask, "length": ctx_length, "setting": json.dumps(settings)}
    rows = [{**row, "recipe": json.dumps(row["recipe"])} for row in found.rows]
    return as_dataset(rows, common=common, about=found.counted)


def report_skips(found: specs.SpecFile) -> None:
    """Log what could not be made."""
    skipped, wanted = found.report["skipped"], found.key["samples"]
    if skipped:
        logger.warning(
            "%s: %d questions were skipped because they cannot fit.", found.key["leaf"], skipped
        )
    if len(found.rows) < wanted:
        logger.warning(
            "%s: %d samples instead of %d: the local file has no more questions.",
            found.key["leaf"],
            len(found.rows),
            wanted,
        )


def doc_to_text(doc: dict) -> str:
    """Return a sample's prompt, up to the answer's beginning."""
    family = _family(doc["subtask"], doc["setting"])
    return render(family.sample(json.loads(doc["recipe"])).parts)


@functools.lru_cache(maxsize=32)
def _family(subtask: str, settings: str) -> Family:
    fields = json.loads(settings)
    return SUBTASKS[subtask].make(RulerSettings(**fields | {"chat": tuple(fields["chat"])}))


def _settings(length: int, options: Options, metadata: dict[str, Any]) -> RulerSettings:
    return RulerSettings(
        length=length,
        samples=options.samples,
        seed=options.seed,
        fidelity=options.fidelity,
        chat=chat_of(metadata, prefixed=True) if options.chat else ("", ""),
        data_dir=options.data_dir,
    )


def get_specs(
    subtask: str,
    length: int,
    metadata: dict[str, Any],
    progress: Callable[[], object] = lambda: None,
) -> specs.SpecFile:
    """Return the specs of one leaf, from the cache or made now.

    Args:
        subtask: one of the 13.
        length: tokens of prompt and answer together.
        metadata: `Options`, and `tokenizer` or `pretrained`; other keys are not ours.
        progress: called after every sample that is made.
    """
    options = read_settings(Options, metadata, "Metadata", strict=False)
    check_templates(RULER.values(), options.templates)
    name = tokenizer_name(**metadata)
    settings = _settings(length, options, metadata)
    key = {
        "generator": ["ruler", VERSION],
        "leaf": leaf_name(subtask, length),
        "subtask": subtask,
        "length": length,
        **{k: v for k, v in asdict(options).items() if k not in ("data_dir", "chat", "templates")},
        **({} if options.templates == "checked" else {"templates": options.templates}),
        "chat": list(settings.chat),
        "tokenizer": _fingerprint(name),
        "texts": _texts_digest(),
        "data": {kind: _data_digest(kind, options.data_dir) for kind in SUBTASKS[subtask].data},
    }
    counter = _counter(name, options.fidelity == "strict" and not options.chat)

    def make() -> tuple[list[specs.Row], dict[str, Any]]:
        leaf = leaf_name(subtask, length)
        rows, report = make_recounted(
            lambda how: make_rows(leaf, SUBTASKS[subtask].make(settings), how, options, progress),
            lambda how, row: _recount(SUBTASKS[subtask].make(settings), how, row),
            counter,
        )
        return rows, report | {"tokenizer_name": name}

    return specs.get(key, make)


@functools.lru_cache(maxsize=4)
def _counter(tokenizer: str, special_tokens: bool) -> TokenCounter:
    return TokenCounter(load_tokenizer(tokenizer), special_tokens)


@functools.lru_cache(maxsize=8)
def _fingerprint(tokenizer: str) -> str:
    return fingerprint(load_tokenizer(tokenizer))


@functools.lru_cache
def _texts_digest() -> str:
    """Return a digest of the prompt texts and word lists."""
    texts = [asdict(templates.template(f)) for f in ("niah", "vt", "cwe", "fwe", "qa")]
    all_of_it = [texts, templates.needle(), templates.noise(), templates.document(), words.digest()]
    return hashlib.sha256(json.dumps(all_of_it).encode()).hexdigest()[:16]


def _data_digest(kind: str, data_dir: str | None) -> str:
    if kind == "essays":
        return load_essays(data_dir).digest
    return load_corpus(kind, data_dir).digest


def make_rows(
    leaf: str,
    family: Family,
    counter: TokenCounter,
    options: Options,
    progress: Callable[[], object] = lambda: None,
) -> tuple[list[specs.Row], dict[str, Any]]:
    """Make a leaf's samples.

    Returns:
        Rows for the cache, and a report with the number of skipped questions.

    Raises:
        ValueError: no sample fits, or one does not and `unfit` is error.
    """
    rows: list[specs.Row] = []
    skipped = 0
    needed: list[int] = []
    for made in family.make(counter):
        if isinstance(made, DoesNotFit):
            skipped += 1
            if made.tokens is not None:
                needed.append(made.tokens)
            # A family without questions has no other to go on to.
            if options.unfit == "error" or (not family.questions and skipped > len(rows)):
                raise _cannot_fit(leaf, family, needed, options.unfit)
            continue
        rows.append(_row(family, counter, len(rows), *made))
        progress()
        if len(rows) == options.samples:
            break
    if not rows:
        raise _cannot_fit(leaf, family, needed, options.unfit)
    return rows, {"skipped": skipped}


def _row(
    family: Family, counter: TokenCounter, index: int, spec: Spec, sample: Sample, tokens: int
) -> specs.Row:
    depth = family.depth(counter, sample, tokens)
    return {
        "index": index,
        "tokens": tokens,
        "depth": None if depth is None else round(depth, 6),
        "outputs": sample.outputs,
        "gen_prefix": sample.prefix,
        "recipe": {k: v for k, v in spec.items() if not k.startswith("_")},
    }


def _cannot_fit(leaf: str, family: Family, needed: list[int], unfit: str) -> ValueError:
    length = family.settings.length
    what = f"{leaf} has a sample that cannot fit {length} tokens"
    if not needed:
        return ValueError(f"{what}, whatever its haystack. Take a longer length.")
    if unfit == "error":
        return ValueError(
            f"{what}: it needs {needed[-1]}. Metadata unfit='error' stops here; unfit='skip' goes "
            "on to the next question where there is one. Give that, or take a longer length."
        )
    fits = next((n for n in LADDER if n >= min(needed)), min(needed))
    return ValueError(
        f"{leaf} has no sample that fits {length} tokens with this "
        f"tokenizer: the shortest needs {min(needed)}. Take length {fits} or more, or leave this "
        "subtask out."
    )


def _recount(family: Family, counter: TokenCounter, row: specs.Row) -> int:
    return family.count(counter, family.sample(row["recipe"]))


def recount(found: specs.SpecFile, tokenizer: str | None = None) -> None:
    """Write every prompt of a spec file and compare its tokens with those recorded.

    Raises:
        ValueError: a prompt has other tokens than when it was made.
    """
    key = found.key
    name = tokenizer or found.report["tokenizer_name"]
    if _fingerprint(name) != key["tokenizer"]:
        raise ValueError(
            f"The tokenizer {name} is not the one this was made with. Give it with --tokenizer."
        )
    settings = RulerSettings(
        key["length"], key["samples"], key["seed"], key["fidelity"], tuple(key["chat"])
    )
    family = SUBTASKS[key["subtask"]].make(settings)
    counter = TokenCounter(
        load_tokenizer(name), key["fidelity"] == "strict" and not any(key["chat"]), additive=False
    )
    for row in found.rows:
        tokens = _recount(family, counter, row)
        if tokens != row["tokens"]:
            raise ValueError(
                f"Sample {row['index']} has {tokens} tokens, but {row['tokens']} were recorded: "
                "the local data or the installed word lists are not those it was made with."
            )
