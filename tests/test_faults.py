"""Faults and bad input: what docs/faults.md says of each, one test a row."""

import errno
import gzip
import json
import logging
import os
import pickle
import re
import shutil
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance

import ctxbench
from ctxbench import cli
from ctxbench.assets import resolve_model
from ctxbench.atomic_file import write_atomically
from ctxbench.errors import show_user_errors_plainly
from ctxbench.methods.options import parse_length
from ctxbench.methods.registry import get_method, list_methods
from ctxbench.models.answers import AnswerCache
from ctxbench.models.ctxext import CtxExt
from ctxbench.models.loading import load_tokenizer
from ctxbench.tasks import recipes
from ctxbench.train import cli as train_cli
from ctxbench.train import loop
from ctxbench.train.checkpoint import find_checkpoint, save_checkpoint
from ctxbench.train.convert import parse_tokens
from ctxbench.train.recipes import read_recipe
from ctxbench.train.sources import open_stream, parse_source
from tests.train.small import small_config

ROOT = Path(__file__).resolve().parents[1]


def test_every_row_of_the_page_names_a_test_that_is_here():
    rows = re.findall(r"^\|.*\| `(\w+)` \|$", (ROOT / "docs" / "faults.md").read_text(), re.M)
    here = {name for name in globals() if name.startswith("test_")}
    elsewhere = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    }
    assert len(rows) > 30
    assert set(rows) <= elsewhere
    assert here - {sys._getframe().f_code.co_name} <= set(rows), "a fault without a row"


class Evil:
    """Unpickled, it would create a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.fixture
def checkpoint(tmp_path):
    return Path(shutil.copytree(resolve_model("mini"), tmp_path / "checkpoint"))


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(resolve_model("mini"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXBENCH_CACHE", str(tmp_path / "cache"))


# ------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("content", [b"", b"x" * 100, "half"])
@pytest.mark.parametrize("load", [ctxbench.load_model, lambda path: CtxExt(str(path))])
def test_damaged_weights_are_named(checkpoint, load, content):
    file = checkpoint / "model.safetensors"
    half = file.read_bytes()[: file.stat().st_size // 2]
    file.write_bytes(half if content == "half" else content)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged or cut short.*again"):
        load(checkpoint)


def test_missing_weights_and_tokenizers_are_named(checkpoint):
    (checkpoint / "tokenizer.json").rename(checkpoint / "x")
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer: none of tokenizer\.json"):
        ctxbench.load_model(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights .* cannot be had: .*model.safetensors"):
        ctxbench.load_model(checkpoint)


def test_damaged_tokenizers_are_named(checkpoint):
    (checkpoint / "tokenizer.json").write_text('{"version"')
    for load in (ctxbench.load_model, lambda path: CtxExt(str(path))):
        with pytest.raises(ValueError, match=r"tokenizer\.json is damaged or cut short"):
            load(checkpoint)


def test_damaged_tensors_of_a_method_are_named(tmp_path):
    model, tokenizer = ctxbench.load_model("mini", "clex", length=1024, max_factor=16)
    folder = ctxbench.save_model(model, tokenizer, tmp_path, trained_length=1024)
    file = folder / "ctxbench_state.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"ctxbench_state.safetensors is damaged"):
        ctxbench.load_model(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks ctxbench_state.safetensors"):
        ctxbench.load_model(folder)


def test_pickles_run_nothing(checkpoint, tmp_path, tokenizer):
    evil = tmp_path / "evil"
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(evil), protocol=2))
    for load in (ctxbench.load_model, lambda path: CtxExt(str(path))):
        with pytest.raises(ValueError, match="a pickle that holds more than tensors"):
            load(checkpoint)
    np.save(tmp_path / "a.npy", np.array([Evil(evil)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="holds Python objects"):
        open_stream(parse_source(str(tmp_path / "a.npy")), tokenizer)
    assert not evil.exists()


def test_code_in_a_checkpoint_is_not_run(checkpoint, tmp_path):
    evil = tmp_path / "evil"
    (checkpoint / "evil.py").write_text(f"import os; os.mkdir({str(evil)!r})\nclass Evil: pass\n")
    config = json.loads((checkpoint / "config.json").read_text())
    parts = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    (checkpoint / "config.json").write_text(
        json.dumps({**config, "model_type": "evil", "auto_map": parts})
    )
    for load in (ctxbench.load_model, lambda path: CtxExt(str(path))):
        with pytest.raises(ValueError, match="contains custom code"):
            load(checkpoint)
    assert not evil.exists()


# ------------------------------------------------------------------- data

DAMAGED_DATA = {
    "cut.jsonl": (b'{"text": "abc"}\n{"text": "de', "line 2 is not a JSON object"),
    "bytes.jsonl": (b'{"text": "\xff"}\n', "line 1 is not a JSON object"),
    "list.jsonl": (b"[1, 2]\n", "line 1 is not a JSON object"),
    "cut.jsonl.gz": (gzip.compress(b'{"text": "abc"}\n' * 999)[:60], "damaged or cut short"),
    "not.jsonl.gz": (b'{"text": "abc"}\n', "damaged or cut short"),
    "cut.parquet": (b"PAR1" + b"x" * 40, "damaged or cut short"),
    "latin.txt": (b"na\xefve", "it is not UTF-8"),
    "half.jsonl": (b'{"text": "\\ud83d x"}\n', "half of a surrogate pair"),
    "number.jsonl": (b'{"text": 5}\n', "it must be a text, or input_ids"),
    "ids.jsonl": (b'{"input_ids": [1, 99999]}\n', "were made with another one"),
    "words.jsonl": (b'{"input_ids": ["a"]}\n', "a list of token ids"),
    "none.jsonl": (b"", "hold no text"),
    "odd.bin": (b"abc", "no whole number of uint16 tokens"),
    "none.bin": (b"", "no whole number"),
    "ids.bin": (np.array([1, 60000], np.uint16).tobytes(), "were made with another one"),
    "header.npy": (b"\x93NUMPYxxxxxxxx", "is damaged"),
}


@pytest.mark.parametrize("name", DAMAGED_DATA)
def test_damaged_data_are_named(tmp_path, tokenizer, name):
    content, words = DAMAGED_DATA[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        open_stream(parse_source(str(tmp_path / name)), tokenizer)
    cache = tmp_path / "cache"
    assert not [p for p in cache.rglob("*") if p.is_file()], "nothing half made is kept"


def test_unicode_empty_and_huge_documents(tmp_path, tokenizer):
    texts = ["", "naïve 東京 🙂 \u202eabc\u0000 e\u0301", " ", "word " * 2_000_000]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    stream = open_stream(parse_source(str(file)), tokenizer)
    ends = [*stream.starts[1:], len(stream.tokens)]
    documents = [stream.tokens[a:b] for a, b in zip(stream.starts, ends, strict=True)]
    assert [tokenizer.decode(ids[1:]) for ids in documents[:3]] == texts[:3]
    assert len(documents[0]) == 1  # the separator alone
    assert tokenizer.decode(documents[3][-6:]).endswith("word ")
    assert len(stream.tokens) > 1_000_000


@pytest.mark.parametrize("damage", ["cut", "starts", "missing"])
def test_damaged_token_caches_are_made_again(tmp_path, tokenizer, damage, caplog):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "import os " * 50}) + "\n")
    good = np.array(open_stream(parse_source(str(file)), tokenizer).tokens)
    (tokens,) = (tmp_path / "cache").rglob("tokens.bin")
    if damage == "cut":
        tokens.write_bytes(tokens.read_bytes()[:-2])
    elif damage == "starts":
        tokens.with_name("starts.npy").write_bytes(b"\x93NUMPY")
    else:
        tokens.unlink()
    with caplog.at_level(logging.WARNING):
        again = open_stream(parse_source(str(file)), tokenizer).tokens
    assert "are damaged" in caplog.text
    assert np.array_equal(again, good)


def test_hostile_yaml_makes_no_objects(tmp_path):
    evil, recipe = tmp_path / "evil", tmp_path / "recipe.yaml"
    recipe.write_text(f"model: !!python/object/apply:os.mkdir [{str(evil)!r}]\n")
    with pytest.raises(ValueError, match=r"not plain YAML.*Python objects are refused"):
        read_recipe(str(recipe))
    assert not evil.exists()
    for content in (b"a: [1", b"\xff\xfe", b"- a\n", b"a: *b\n"):
        recipe.write_bytes(content)
        with pytest.raises(ValueError, match=r"not plain YAML|not a mapping"):
            read_recipe(str(recipe))


def test_names_leave_no_folder(tmp_path, capsys):
    """A name with `..` finds nothing outside of where names are looked up."""
    (tmp_path / "cache" / "recipes").mkdir(parents=True)
    outside = tmp_path / "cache" / "outside.jsonl"
    outside.write_text("{}")
    for command in ("rm", "verify"):
        assert cli.main(["data", command, "../outside"]) == 2
    assert outside.exists()
    assert "No data is called '../outside'" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="There is no recipe"):
        read_recipe("../recipes/paper")
    with pytest.raises(ValueError, match=r"no method '../methods/pi'"):
        get_method("../methods/pi")


# ------------------------------------------------------------------- caches


def test_damaged_answers_are_named(tmp_path):
    cache = AnswerCache(tmp_path, "m")
    cache.put([(f"key{i}", "x" * 500) for i in range(200)])
    cache.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    cache.database.close()
    content = bytearray(cache.file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    cache.file.write_bytes(content)
    again = AnswerCache(tmp_path, "m")
    with pytest.raises(ValueError, match=r"is damaged .*Delete the file"):
        [again.get(f"key{i}") for i in range(200)]


def test_answers_that_cannot_be_kept_stop_the_run(tmp_path):
    cache = AnswerCache(tmp_path, "m")
    cache.put([("kept", 1)])
    cache.database.execute("PRAGMA max_page_count = 1")  # SQLite's own "disk is full"
    pages = cache.database.execute("PRAGMA max_page_count").fetchone()[0]
    with pytest.raises(ValueError, match=r"full.*with room.*the same command again"):
        cache.put([("lost", "x" * 4096 * (pages + 9))])
    assert cache.get("kept") == 1
    assert cache.get("lost") is None


@pytest.mark.parametrize("damage", [b"", b"{}\n", b'{"sha256": 1}\n', b"\xff\xfe", "cut"])
def test_damaged_recipes_of_tasks_are_named(damage):
    key = {"leaf": "ruler_1k_vt", "seed": 1}
    path = recipes.get(key, lambda: ([{"a": 1}, {"a": 2}], {})).path
    path.write_bytes(path.read_bytes()[:-3] if damage == "cut" else damage)
    with pytest.raises(ValueError, match=r"is damaged .*ctxbench data rm ruler_1k_vt"):
        recipes.get(key, lambda: pytest.fail("silently made again"))


# ------------------------------------------------------- disks and permissions


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/file")


def test_a_full_disk_leaves_whole_files(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_atomically(file, b"old")
    for function in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, full_disk)
            with pytest.raises(OSError, match="No space left"):
                write_atomically(file, b"new")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["file"]
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize("function", ["rename", "fsync"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, function):
    tensors = {"a": torch.ones(3)}
    save_checkpoint(tmp_path, {"step": 1}, tensors, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, full_disk)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path, {"step": 2}, tensors, keep=1)
    told: list[str] = []
    found = find_checkpoint(tmp_path, told.append)
    assert found is not None
    assert found.step == 1
    assert "step_00000002.tmp: it was being written" in told[0]
    assert save_checkpoint(tmp_path, {"step": 2}, tensors, keep=1).is_dir()


def test_a_full_disk_keeps_no_half_token_cache(tmp_path, tokenizer, monkeypatch):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "import os"}) + "\n")
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full_disk)
        with pytest.raises(OSError, match="No space left"):
            open_stream(parse_source(str(file)), tokenizer)
    assert not list((tmp_path / "cache" / "tokens").iterdir())
    assert len(open_stream(parse_source(str(file)), tokenizer).tokens)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "There is no room to write"), (errno.EACCES, "cannot be read or written"),
     (errno.EROFS, "cannot be read or written"), (errno.EDQUOT, "There is no room")],
)  # fmt: skip
def test_a_full_disk_or_a_forbidden_folder_is_one_message(
    number, words, capsys, monkeypatch, tmp_path
):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number), str(tmp_path / "x"))

    monkeypatch.setattr(cli, "_tasks_path", fail)
    assert cli.main(["tasks-path"]) == 2
    monkeypatch.setattr(train_cli, "run", fail)
    monkeypatch.delenv("CTXBENCH_TRACEBACK", raising=False)
    with pytest.raises(SystemExit, match="2"):
        train_cli.main()
    shown = capsys.readouterr().err
    assert shown.count(words) == 2
    assert "Traceback" not in shown
    # within lm_eval it is the hook that shows it
    monkeypatch.setattr(sys, "excepthook", lambda *a: pytest.fail("a traceback"))
    show_user_errors_plainly()
    monkeypatch.setattr(os, "replace", fail)
    try:
        write_atomically(tmp_path / "a" / "file", b"x")
    except OSError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    assert words in capsys.readouterr().err


def test_a_cache_that_is_no_folder(tmp_path, tokenizer, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CTXBENCH_CACHE", str(tmp_path / "file"))
    data = tmp_path / "a.jsonl"
    data.write_text(json.dumps({"text": "import os"}) + "\n")
    with pytest.raises(NotADirectoryError):
        open_stream(parse_source(str(data)), tokenizer)
    with pytest.raises((NotADirectoryError, FileExistsError)):
        AnswerCache(tmp_path / "file" / "answers", "m")


# ------------------------------------------------------------------- running


def test_two_runs_in_one_output_folder(tmp_path):
    config = small_config(tmp_path, steps=2, warmup=0)
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(ValueError, match="Another ctxbench-train writes"):
        loop.train(config)
    assert not (out / "metrics.jsonl").exists()
    assert loop.train(config) == out  # the system has let go of it


def test_a_loss_that_is_no_number_stops_and_is_never_saved(tmp_path, monkeypatch):
    config = small_config(tmp_path, steps=4, save_every=1, micro_batch_size=4)
    forward = loop.CausalLoss.forward
    calls = []

    def poisoned(self, batch):
        calls.append(1)
        return forward(self, batch) * (float("nan") if len(calls) > 2 else 1.0)

    monkeypatch.setattr(loop.CausalLoss, "forward", poisoned)
    with pytest.raises(ValueError, match=r"The loss is nan at step 3. Lower --lr"):
        loop.train(config)
    found = find_checkpoint(tmp_path / "out" / "checkpoints")
    assert found is not None
    assert found.step == 2
    assert not (tmp_path / "out" / "config.json").exists()


def ask(kind: str, *arguments):
    return Instance(kind, {}, arguments, 0, ("test", 0, 1))


def out_of_memory_once(function, at: int):
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
        return function(*args, **kwargs)

    return wrapped


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("at", [1, 3])
def test_out_of_memory_in_the_middle_changes_no_answer(monkeypatch, share, at):
    text = "import os\nclass A:\n    pass\n" * 8
    kinds = {"until": ["\n\n"], "max_gen_toks": 4}
    scored = [ask("loglikelihood", text + f"x = {i}\n" * i, " return") for i in range(5)]
    asked = [ask("generate_until", text + f"x = {i}\n" * i, kinds) for i in range(5)]

    def answers(fail: bool) -> tuple[list[float], list[str]]:
        found = []
        for ask_model in (
            lambda lm: [total for total, _ in lm.loglikelihood(scored)],
            lambda lm: lm.generate_until(asked),
        ):
            lm = CtxExt("mini", method="pi", length=512, batch_size=4, share_prefixes=share)
            base = lm.hf_model.base_model
            if fail:
                monkeypatch.setattr(base, "forward", out_of_memory_once(base.forward, at))
            found.append(ask_model(lm))
        return found[0], found[1]

    totals, texts = answers(fail=False)
    again, same = answers(fail=True)
    # other batch widths and chunks add float32 in another order: 1e-5 of a log-likelihood
    assert again == pytest.approx(totals, abs=1e-4)
    assert same == texts


def test_out_of_memory_that_stays_says_what_to_do(monkeypatch):
    lm = CtxExt("mini", length=256)

    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(lm.hf_model.base_model, "forward", fail)
    with pytest.raises(torch.OutOfMemoryError, match="Give a half-precision dtype"):
        lm.loglikelihood([ask("loglikelihood", "import", " os")] * 2)


def test_prompts_that_differ_in_the_last_token_only():
    lm = CtxExt("mini", length=256)
    text = "import os\nimport sys\n" * 5
    ids = lm.tok_encode(text + "return")
    prompts = [lm.tok_decode([*ids, last]) for last in lm.tok_encode("A B C")[:2]]
    assert [lm.tok_encode(p)[:-1] for p in prompts] == [ids] * 2
    asked = [ask("generate_until", p, {"until": [], "max_gen_toks": 3}) for p in prompts]
    alone = CtxExt("mini", length=256, share_prefixes=False)
    assert lm.generate_until(asked) == alone.generate_until(asked)


def test_unicode_and_empty_prompts_are_answered():
    lm = CtxExt("mini", length=256)
    texts = ["", "東京 🙂 \u202e", "\u0000", " \n"]
    asked = [ask("generate_until", t or " ", {"until": [], "max_gen_toks": 2}) for t in texts]
    assert len(lm.generate_until(asked)) == 4
    assert all(
        total < 0
        for total, _ in lm.loglikelihood([ask("loglikelihood", "", t + "a") for t in texts])
    )
    with pytest.raises(ValueError, match="empty continuation"):
        lm.loglikelihood([ask("loglikelihood", "a", "")])


# -------------------------------------------------------------------- parsers


def says(error: Exception, pattern: str) -> None:
    assert re.search(pattern, str(error)), error


VALUES = st.one_of(
    st.text(max_size=12),
    st.text("0123456789kmbtKMBT._-+eE@:=, infa", max_size=10),
    st.integers(),
    st.floats(),
    st.none(),
    st.booleans(),
    st.lists(st.one_of(st.floats(), st.text(max_size=3), st.none()), max_size=3),
)


@given(VALUES)
def test_any_text_is_a_length_or_an_error(value):
    try:
        assert parse_length(value) > 0
    except ValueError as error:
        says(error, "is not a length. Allowed")


@given(VALUES)
def test_any_text_is_a_number_of_tokens_or_an_error(value):
    try:
        assert parse_tokens(value) > 0
    except ValueError as error:
        says(error, "is not a number of tokens. Allowed")


@settings(max_examples=100)
@given(st.sampled_from(list_methods()), st.data())
def test_any_option_is_taken_or_refused_in_three_parts(name, data):
    known = [*get_method(name).options(), "length", "x"]
    option = data.draw(st.sampled_from(known))
    try:
        get_method(name, **{option: data.draw(VALUES)})
    except (ValueError, FileNotFoundError) as error:
        says(error, "is not allowed|has no option|is not a length|cannot be read")
        says(error, "Give|Its options|Allowed")


@given(st.one_of(st.text(max_size=20), st.text("a/.@0123456789e+-:=,", max_size=20)))
def test_any_text_is_a_source_or_an_error(text):
    try:
        source = parse_source(text)
    except ValueError as error:
        says(error, "is not a positive number. Write for example")
    else:
        assert 0 < source.weight < float("inf")
        assert all(isinstance(value, str) for value in source.options.values())


@given(st.one_of(st.text(max_size=20), st.text("./a\\\x00yml", max_size=12), st.just("x" * 5000)))
def test_any_text_is_a_recipe_or_an_error(name):
    with pytest.raises((FileNotFoundError, ValueError), match=r"no recipe|mapping|YAML"):
        read_recipe(name)


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_an_answer_cache_or_an_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("answers")
    (folder / "answers-m.sqlite").write_bytes(content)
    try:
        AnswerCache(folder, "m").database.close()
    except ValueError as error:
        says(error, "Delete the file|cannot be used")
    except sqlite3.Error as error:
        pytest.fail(f"SQLite's own error: {error}")
