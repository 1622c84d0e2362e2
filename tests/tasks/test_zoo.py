"""Every rule of counting, and every family of tasks, over a zoo of tokenizers."""

import argparse
import inspect
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.tasks import TaskManager

from ctxbench.tasks.additivity import additivity
from ctxbench.tasks.leaf_files import tasks_path
from ctxbench.tasks.longbench.prompts import load_prompt
from ctxbench.tasks.longbench.truncation import SEAM
from ctxbench.tasks.mini import dataset as mini
from ctxbench.tasks.needle_grid import GridSettings, make_run
from ctxbench.tasks.passkey import dataset as passkey
from ctxbench.tasks.ruler.family import DoesNotFit, RulerSettings
from ctxbench.tasks.ruler.subtasks import SUBTASKS
from ctxbench.tasks.token_count import TokenCounter, render
from ctxbench.tasks.tokenizer import load_tokenizer
from tests import zoo


@pytest.fixture(scope="module")
def data(data_dir):
    patch = pytest.MonkeyPatch()
    patch.setenv("CTXBENCH_DATA", str(data_dir))
    yield data_dir
    patch.undo()


def plain(tokenizer, text: str, special_tokens: bool = False) -> int:
    return len(tokenizer(text, add_special_tokens=special_tokens, verbose=False).input_ids)


# ----------------------------------------------------------------------- counts


@pytest.mark.parametrize("name", zoo.NAMES)
def test_what_is_proven_of_each(zoo_path, name):
    tokenizer = load_tokenizer(zoo_path(name))
    reason = additivity(tokenizer).why_not
    if name in zoo.SUMMED:
        assert reason is None
    else:
        assert zoo.WHOLE[name][1] in (reason or "")
    assert (reason or "proven") in TokenCounter(tokenizer).how


FRAGMENTS = (
    *(
        " ",
        "  ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        " \n",
        "\u00a0",
        "\u2003",
        "\x1c",
        "\u200b",
        "▁",
        "▁▁",
    ),
    *("a", "B", "x", "the", "The", "grass", "special", "magic", "sky", "is", "blue", "uuid", "ing"),
    *("7", "12", "1234567", "a1", "-", "-b", "9f-", "'s", "I'LL", ".", "...", ":", ",", "_/", "[@"),
    *("é", "e\u0301", "\u0301", "ﬁ", "½", "Σ", "İ", "ß", "漢", "の", "Привет", "😀", "\u00a8", "ΐ"),
    *("<s>", "</s>", "<unk>", "<|im_start|>", "<unused1>", "<0x0A>", "Ġ", "##"),
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=24).map("".join)


@pytest.mark.filterwarnings("ignore:This sequence already has")  # ByT5, of a text with </s>
@settings(max_examples=40)
@given(text=TEXTS, special_tokens=st.booleans())
@pytest.mark.parametrize("name", zoo.NAMES)
def test_counts_are_the_plain_tokenizers(zoo_path, name, text, special_tokens):
    tokenizer = load_tokenizer(zoo_path(name))
    counter = TokenCounter(tokenizer, special_tokens)
    assert counter.count([text]) == plain(tokenizer, text, special_tokens)


# ------------------------------------------------------------------------ RULER


def samples(subtask, settings_, counter, count):
    family = SUBTASKS[subtask].make(settings_)
    try:
        for made in itertools.islice(family.make(counter), count):
            if isinstance(made, DoesNotFit):
                yield made.tokens, None
            else:
                yield made[0], (render(made[1].parts) + made[1].prefix, made[2])
    except ValueError as error:
        yield str(error), None


NEEDLES = [name for name in SUBTASKS if name.startswith("niah")]


@pytest.mark.parametrize(("number", "name"), list(enumerate(zoo.NAMES)))
def test_ruler(zoo_path, data, number, name):
    """Needles with every tokenizer, every subtask with some of them; all with all are slow."""
    others = ("vt", "cwe", "fwe", "qa_1", "qa_2")
    subtasks = [NEEDLES[number % len(NEEDLES)], others[number % 5], others[(number + 2) % 5]]
    tokenizer = load_tokenizer(zoo_path(name))
    check_ruler(tokenizer, RulerSettings(2048, 1, seed=7), subtasks)
    strict = RulerSettings(2048, 1, seed=7, fidelity="strict")
    check_ruler(tokenizer, strict, list(SUBTASKS)[number % len(SUBTASKS) :][:1])


@pytest.mark.slow
@pytest.mark.parametrize("fidelity", ["nvidia", "lceg", "strict"])
@pytest.mark.parametrize("name", zoo.NAMES)
def test_ruler_whole(zoo_path, data, name, fidelity):
    tokenizer = load_tokenizer(zoo_path(name))
    check_ruler(tokenizer, RulerSettings(4096, 3, seed=7, fidelity=fidelity), SUBTASKS)


def check_ruler(tokenizer, settings_, subtasks) -> None:
    """Make samples by sums and by whole prompts: the same, of the right lengths, not too long."""
    special_tokens = settings_.fidelity == "strict"
    sums = TokenCounter(tokenizer, special_tokens)
    whole = TokenCounter(tokenizer, special_tokens, additive=False)
    for subtask in subtasks:
        made = list(samples(subtask, settings_, sums, settings_.samples))
        if sums.whole is None:
            assert made == list(samples(subtask, settings_, whole, settings_.samples))
        new_tokens = SUBTASKS[subtask].family.new_tokens
        for prompt, tokens in filter(None, (sample for _, sample in made)):
            if (subtask, settings_.fidelity) != ("vt", "lceg"):
                assert tokens == plain(tokenizer, prompt, special_tokens) + new_tokens, subtask
            # LCEG's generator counts chain and example of vt apart, and forgets fwe's new tokens.
            assert tokens <= settings_.length or settings_.fidelity == "lceg"


# ----------------------------------------------------------- the other families

NEEDLE_TASKS = {"niah_1k": (1024, 50), "passkey_1k": (1024, 10), "niah_lceg_1000": (1000, 50)}
MANY_SHOT = ("trec_fine_1shot", "mini_manyshot_4shot")
MINI = ("mini_needle_512", "mini_multiquery_512", "mini_ppl_512", "mini_windows_512")
TASKS = (
    *NEEDLE_TASKS,
    *("longbench_4k_lcc", *MANY_SHOT, "trec_fine_50shot_lceg", "text_ppl_sliding_2k", *MINI),
)
BEGIN_WITH_BOS = ("llama-2", "llama-2-metaspace", "llama-3", "three-splits", "bos-and-eos")
SOURCE = inspect.getsource(argparse)
TEXT = "naïve café 北京大学 の Привет ﬁne ½ <s>\u00a0▁x\r\n" * 9 + SOURCE[:4000] + "a = 1\n" * 1300


@pytest.fixture(scope="module")
def load(data, tmp_path_factory):
    """Return what loads a task as a run does, out of a folder of its own: an index is slow."""
    folder = tmp_path_factory.mktemp("tasks")
    for path in Path(tasks_path()).rglob("*.yaml"):
        if path.stem in TASKS:
            (folder / path.stem).mkdir()
            shutil.copy(path, folder / path.stem)

    def load(name: str, tokenizer: str, **metadata):
        metadata = {"tokenizer": tokenizer, **metadata}
        manager = TaskManager(
            include_path=str(folder / name), include_defaults=False, metadata=metadata
        )
        task = manager.load([name])["tasks"][name]
        told = load_tokenizer(tokenizer).deprecation_warnings
        assert "sequence-length-is-longer-than-the-specified-maximum" not in told
        return task

    return load


def requests(task) -> list:
    task.build_all_requests(rank=0, world_size=1)
    return [request.args for request in task.instances]


@pytest.mark.parametrize(("number", "name"), list(enumerate(zoo.NAMES)))
def test_needles(zoo_path, load, number, name):
    """Passkeys with most, essays with some, whose words are many; all with all are slow."""
    leaf = ("niah_1k", "passkey_1k", "passkey_1k", "niah_lceg_1000", *["passkey_1k"] * 3)[
        number % 7
    ]
    check_needles(zoo_path(name), load, leaf)


@pytest.mark.slow
@pytest.mark.parametrize("leaf", NEEDLE_TASKS)
@pytest.mark.parametrize("name", zoo.NAMES)
def test_needles_whole(zoo_path, load, name, leaf):
    check_needles(zoo_path(name), load, leaf)


def check_needles(path: str, load, leaf: str) -> None:
    """Prompts have the tokens recorded, fit with their answer, and what is written is scored."""
    length, new_tokens = NEEDLE_TASKS[leaf]
    tokenizer, task = load_tokenizer(path), load(leaf, path, samples=10)
    for doc, (prompt, _) in zip(task.eval_docs, requests(task), strict=True):
        assert doc["tokens"] == plain(tokenizer, prompt, True) <= length - new_tokens
        assert doc["needle"] in prompt
        if Path(path).name != "words":  # which cannot write an answer
            said = tokenizer.decode(tokenizer(doc["answer"]).input_ids, skip_special_tokens=True)
            scores = task.process_results(doc, [said])
            assert scores.get("exact", scores["score"]) == 1.0


def test_a_frame_of_more_tokens_than_its_buffer_fits(zoo_path):
    """As the study's 200 tokens are too few for a tokenizer of bytes."""
    counter = TokenCounter(load_tokenizer(zoo_path("no-fast-version")), special_tokens=True)
    grid = replace(passkey.GRID, frame=replace(passkey.GRID.frame, buffer=20))
    haystack = grid.haystack(None)
    rows = list(make_run(grid, GridSettings(), 1024, 0, haystack, counter))
    assert max(row["tokens"] for row in rows) <= 1024 - grid.frame.new_tokens


def official_cut(tokenizer, prompt: str, max_length: int) -> str:
    """Cut as the official code (THUDM/LongBench@2e00731, pred.py:57-62; LCEG the same)."""
    ids = tokenizer(prompt, verbose=False).input_ids
    if len(ids) > max_length:
        half = int(max_length / 2)
        ends = ids[:half], ids[-half:]
        prompt = "".join(tokenizer.decode(part, skip_special_tokens=True) for part in ends)
    return prompt


@pytest.mark.parametrize("name", zoo.NAMES)
def test_longbench(zoo_path, load, tmp_path, name):
    """Prompts are the official texts, and leave the answer its room."""
    row = {"input": "def f():", "answers": ["pass"], "length": 9, "all_classes": None}
    rows = [{**row, "context": context} for context in ("x = 1", TEXT)]
    (tmp_path / "LongBench").mkdir()
    (tmp_path / "LongBench" / "lcc.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = ("longbench_4k_lcc", zoo_path(name))
    if name == "words":
        with pytest.raises(ValueError, match="does not give back what it encoded"):
            load(*asked, data_dir=str(tmp_path))
        return
    task, tokenizer = load(*asked, data_dir=str(tmp_path)), load_tokenizer(zoo_path(name))
    prompt = load_prompt("lcc")
    for doc, made in zip(task.eval_docs, rows, strict=True):
        assert doc["prompt"] == official_cut(tokenizer, prompt.fill(made), 3500)
        assert doc["prompt_tokens"] == plain(tokenizer, doc["prompt"], True) <= 3500 + SEAM
        assert doc["prompt_tokens"] + prompt.max_gen_toks <= 4096
    assert doc["truncated"]


@pytest.mark.parametrize("name", zoo.NAMES)
def test_manyshot(zoo_path, load, name):
    """The tokens of every branch are those with which its labels begin."""
    tokenizer = load_tokenizer(zoo_path(name))
    refused = {"words": "have the same tokens", "expression-over-spaces": "first 2 tokens of label"}
    for leaf in MANY_SHOT:
        if name in refused and (name == "words" or leaf.startswith("trec")):
            with pytest.raises(ValueError, match=refused[name]):
                load(leaf, zoo_path(name), runs=1, samples=1)
            continue
        task = load(leaf, zoo_path(name), runs=1, samples=1)
        (doc,), texts = task.eval_docs, [text for _, text in requests(task)]
        context = task.instances[0].args[0]
        start = plain(tokenizer, context)
        ids = [tokenizer(context + text, add_special_tokens=False).input_ids for text in texts]
        for label, path in enumerate(doc["paths"]):
            for branch in path:
                assert ids[branch][start:] == ids[label][start : len(ids[branch])]
        taken = [set(path) for path in doc["paths"]]
        for label, path in enumerate(doc["paths"]):  # greedy decoding can write every label
            scores = [(float(number in path), False) for number in range(len(texts))]
            assert task.process_results({**doc, "label": label}, scores)["acc_constrained"] == 1
            assert taken.count(set(path)) == 1


@pytest.fixture(scope="module")
def shots(load) -> str:
    """The paper's form, uncut."""
    (doc,) = load("trec_fine_50shot_lceg", "mini", samples=1).eval_docs
    return doc["prompt"]


@pytest.mark.parametrize("name", zoo.NAMES)
def test_manyshot_in_the_papers_form(zoo_path, load, shots, name):
    asked = {"samples": 1, "lceg_window": 301}
    if name == "words":
        with pytest.raises(ValueError, match="does not give back what it encoded"):
            load("trec_fine_50shot_lceg", zoo_path(name), **asked)
        return
    tokenizer = load_tokenizer(zoo_path(name))
    (doc,) = load("trec_fine_50shot_lceg", zoo_path(name), **asked).eval_docs
    assert doc["prompt"] == official_cut(tokenizer, shots, 301)
    assert doc["prompt_tokens"] == plain(tokenizer, doc["prompt"], True) <= 301 + SEAM


@pytest.mark.parametrize("name", zoo.NAMES)
def test_perplexity(zoo_path, load, tmp_path, name):
    """The plain tokens, BOS before them if there is one; each but the first is scored once."""
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": TEXT}))
    task = load("text_ppl_sliding_2k", zoo_path(name), text_path=str(path))
    tokenizer = load_tokenizer(zoo_path(name))
    ids = tokenizer(TEXT, add_special_tokens=False, verbose=False).input_ids
    bos = [tokenizer.bos_token_id] if name in BEGIN_WITH_BOS else []
    assert task.shared.tolist() == bos + ids
    scored: list[int] = []
    for doc in task.eval_docs:
        assert doc["bytes_per_token"] * len(ids) == pytest.approx(len(TEXT.encode()))
        for start, first, end in doc["windows"]:
            assert end - start <= 2048
            scored += range(first, end)
    assert scored == list(range(1, len(task.shared)))


@pytest.mark.parametrize("name", zoo.NAMES)
def test_mini(zoo_path, load, monkeypatch, name):
    size = 60000 if name == "words" else 25000
    monkeypatch.setattr(mini, "held_out_files", lambda: [("a.py", SOURCE[:size])])
    tokenizer = load_tokenizer(zoo_path(name))
    for leaf in MINI[:3]:
        task = load(leaf, zoo_path(name), samples=2)
        for doc, made in zip(task.eval_docs, mini_texts(task), strict=True):
            text, new_tokens = made
            assert doc["tokens"] == plain(tokenizer, text, True) <= 512 - new_tokens
            assert doc["tokens"] > 512 - new_tokens - 60
    assert len(load(MINI[3], zoo_path(name)).shared) == mini.LONGEST


def mini_texts(task):
    """Yield the longest text of each document, and how many tokens may follow it."""
    made = requests(task)
    each = len(made) // len(task.eval_docs)
    for context, rest in made[each - 1 :: each]:
        yield (context, rest["max_gen_toks"]) if isinstance(rest, dict) else (context + rest, 0)
