"""Data: every form reads the same, rows are a function of their number."""

import gzip
import json
import sys
from itertools import chain

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ctxbench.core.assets import resolve_model
from ctxbench.core.stdlib_corpus import NOUNS, is_held_out, stdlib_files
from ctxbench.models.loading import load_tokenizer
from ctxbench.train.data import Mixture, PackedRows, open_mixture
from ctxbench.train.retrieval import RetrievalRows
from ctxbench.train.sources import TokenStream, open_stream, parse_source
from tests.train.small import small_model

TEXTS = ["def a():\n    return 1\n", "import os\n" * 3, "class B: pass", "x = {}\n"]


FILES = 40


@pytest.fixture(autouse=True)
def few_files(monkeypatch):
    """Part of the standard library: tokenising all of it takes seconds."""
    monkeypatch.setattr("ctxbench.train.retrieval.stdlib_files", lambda: stdlib_files()[:FILES])


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(resolve_model("mini"))


@pytest.fixture(scope="module")
def ids(tokenizer):
    """One list per text, begun by the tokenizer's only separator."""
    encode = tokenizer.backend_tokenizer.encode
    return [[0, *encode(text).ids] for text in TEXTS]


def write(folder, form, ids):
    """Write TEXTS in a form; return the source to give."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    if form == "jsonl":
        (folder / "a.jsonl").write_text(lines)
        return folder / "a.jsonl"
    if form == "jsonl.gz":
        (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        return folder / "a.jsonl.gz"
    if form == "folder of txt":
        for number, text in enumerate(TEXTS):
            (folder / f"{number}.txt").write_text(text)
        return folder
    if form == "parquet, column":
        table = pyarrow.table({"body": TEXTS})
        pyarrow.parquet.write_table(table, folder / "a.parquet")
        return f"{folder / 'a.parquet'}:column=body"
    if form == "parquet, input_ids":
        pyarrow.parquet.write_table(pyarrow.table({"input_ids": ids}), folder / "a.parquet")
        return folder / "a.parquet"
    if form == "jsonl, input_ids":
        (folder / "a.jsonl").write_text("".join(json.dumps({"input_ids": i}) + "\n" for i in ids))
        return folder / "a.jsonl"
    if form == "saved dataset":
        datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(folder / "saved")
        return folder / "saved"
    if form == "saved dataset dict":
        part = datasets.Dataset.from_dict({"text": TEXTS})
        datasets.DatasetDict({"some": part}).save_to_disk(folder / "saved")
        return f"{folder / 'saved'}:split=some"
    flat = np.array(list(chain(*ids)))
    if form == "bin":
        flat.astype(np.uint16).tofile(folder / "a.bin")
        return folder / "a.bin"
    if form == "bin uint32":
        flat.astype(np.uint32).tofile(folder / "a.bin")
        return f"{folder / 'a.bin'}:dtype=uint32"
    np.save(folder / "a.npy", flat)
    return folder / "a.npy"


FORMS = [
    "jsonl", "jsonl.gz", "folder of txt", "parquet, column", "parquet, input_ids",
    "jsonl, input_ids", "saved dataset", "saved dataset dict", "bin", "bin uint32", "npy",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_tokens(tmp_path, tokenizer, ids, form):
    stream = open_stream(parse_source(str(write(tmp_path, form, ids))), tokenizer)
    assert stream.tokens.tolist() == list(chain(*ids))
    if stream.starts is not None:
        assert stream.starts.tolist() == np.cumsum([0, *map(len, ids)])[:-1].tolist()


def test_zstd_says_what_to_install(tmp_path, tokenizer, monkeypatch):
    (tmp_path / "a.jsonl.zst").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ValueError, match="pip install zstandard"):
        open_stream(parse_source(str(tmp_path / "a.jsonl.zst")), tokenizer)


def test_zstd_is_read_to_its_last_frame(tmp_path, tokenizer, ids):
    zstandard = pytest.importorskip("zstandard", reason="optional")
    lines = [json.dumps({"text": text}) + "\n" for text in TEXTS]
    file = tmp_path / "a.jsonl.zst"
    file.write_bytes(b"".join(zstandard.compress(line.encode()) for line in lines))
    assert open_stream(parse_source(str(file)), tokenizer).tokens.tolist() == list(chain(*ids))
    file.write_bytes(b"no zstd")
    with pytest.raises(ValueError, match="is damaged, cut short"):
        open_stream(parse_source(str(file)), tokenizer)


def test_cache_is_used_and_noticed_to_be_stale(tmp_path, tokenizer, monkeypatch):
    from ctxbench.train import sources

    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "one"}) + "\n")
    first = open_stream(parse_source(str(file)), tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr(sources, "_write_cache", lambda *_: pytest.fail("tokenised again"))
        assert open_stream(parse_source(str(file)), tokenizer).fingerprint == first.fingerprint
    file.write_text(json.dumps({"text": "another"}) + "\n")
    assert open_stream(parse_source(str(file)), tokenizer).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("text", "name", "options", "weight"),
    [
        ("a.jsonl", "a.jsonl", {}, 1.0),
        ("a.jsonl@0.3", "a.jsonl", {}, 0.3),
        ("stdlib:keys=1-2,text=0@2", "stdlib", {"keys": "1-2", "text": "0"}, 2.0),
        ("me/data@home", "me/data@home", {}, 1.0),
        ("C:/a.jsonl", "C:/a.jsonl", {}, 1.0),
    ],
)
def test_parse_source(text, name, options, weight):
    source = parse_source(text)
    assert (source.name, source.options, source.weight) == (name, options, weight)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("a.jsonl@0", ValueError, "not a positive number"),
        ("", ValueError, "names nothing"),
        ("./nowhere", FileNotFoundError, "no file or folder"),
        ("stdlib:kets=1-2", ValueError, "did you mean keys"),
        ("stdlib:keys=9-2", ValueError, "LOW-HIGH"),
        ("{folder}", ValueError, "holds no data"),
        ("{folder}/a.bin:dtype=int8", ValueError, "uint16"),
        ("{folder}/bad.jsonl", ValueError, "line 2 is not a JSON object"),
        ("{folder}/other.jsonl", ValueError, "SOURCE:column=NAME"),
        ("{folder}/empty.jsonl", ValueError, "hold no text"),
    ],
)
def test_bad_sources(tmp_path, tokenizer, source, error, message):
    if "/" in source[1:]:
        (tmp_path / "a.bin").write_bytes(b"ab")
        (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n[1]\n')
        (tmp_path / "other.jsonl").write_text('{"body": "x"}\n')
        (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(error, match=message):
        open_mixture([source.format(folder=tmp_path)], tokenizer, seed=0)


def packed(count=100, **options):
    stream = TokenStream(np.arange(count), np.array([0, 7, 12, 40]), "x")
    return PackedRows(stream, "test", 0, **options)


def test_rows_are_cut_across_documents_and_each_epoch_is_a_permutation():
    rows = packed()
    epochs = [[int(rows.row(i + e * 12, 8)["input_ids"][0]) for i in range(12)] for e in (0, 1)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(0, 96, 8))] * 2
    assert epochs[0] != epochs[1]
    assert np.array_equal(rows.row(3, 8)["labels"], rows.row(3, 8)["input_ids"])


def test_too_little_data_says_so():
    with pytest.raises(ValueError, match="less than one row of 200"):
        packed().row(0, 200)


def test_document_mask_restarts_positions_and_scores_no_border():
    rows = packed(document_mask=True)
    row = next(r for r in (rows.row(i, 20) for i in range(5)) if r["input_ids"][0] == 0)
    assert row["position_ids"].tolist() == [*range(7), *range(5), *range(8)]
    assert np.flatnonzero(row["labels"] == -100).tolist() == [0, 7, 12]
    row = next(r for r in (rows.row(i, 20) for i in range(5)) if r["input_ids"][0] == 20)
    assert row["position_ids"].tolist() == list(range(20))


def test_document_mask_keeps_documents_apart(tmp_path):
    """A document's logits do not depend on what is packed before it."""
    model = AutoModelForCausalLM.from_pretrained(small_model(tmp_path)).eval()
    first, second = torch.arange(5, 10), torch.arange(30, 37)
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]
    with torch.no_grad():
        both = model(torch.cat([first, second])[None], position_ids=positions, use_cache=False)
        alone = model(second[None], use_cache=False)
    torch.testing.assert_close(both.logits[:, 5:], alone.logits, rtol=1e-5, atol=1e-5)


def test_document_mask_needs_documents(tmp_path, tokenizer):
    np.save(tmp_path / "a.npy", np.arange(50))
    for source in (str(tmp_path / "a.npy"), "stdlib"):
        with pytest.raises(ValueError, match="document_mask"):
            open_mixture([source], tokenizer, seed=0, document_mask=True)


def test_mixture_has_its_shares_after_any_number_of_rows():
    parts = [packed(10_000 * (i + 1)) for i in range(3)]
    mixture = Mixture([(part, weight) for part, weight in zip(parts, (5, 3, 2), strict=True)])
    mixture.row(2999, 8)
    chosen = mixture._order[:3000, 0]
    for end in (1, 10, 77, 3000):
        counts = np.bincount(chosen[:end], minlength=3)
        assert np.abs(counts - end * np.array([0.5, 0.3, 0.2])).max() <= 1
    assert mixture._order[:3000][chosen == 2][:, 1].tolist() == list(range(600))


def test_mixed_batch_fills_in_what_a_source_lacks(tmp_path, tokenizer, ids):
    source = write(tmp_path, "jsonl", ids)
    batch = open_mixture([str(source), "stdlib:keys=1-1"], tokenizer, seed=0).batch(0, 4, 16)
    assert batch["loss_weights"][::2].eq(1).all()
    assert batch["input_ids"].shape == (4, 16)


@pytest.mark.parametrize("length", [32, 256, 1024])
def test_retrieval_rows_state_before_they_ask(tokenizer, length):
    rows = RetrievalRows(parse_source("stdlib:text=0,keys=2-24"), tokenizer, seed=3)
    for number in range(5):
        row = rows.row(number, length)
        assert all(len(values) == length for values in row.values())
        text, weights = row["input_ids"], row["loss_weights"]
        answers = np.flatnonzero(weights == 2)
        assert len(answers) % 2 == 0
        assert len(answers) > 0
        for first, second in answers.reshape(-1, 2):  # two tokens of two digits
            key_and_value = text[first - 1 : second + 1].tolist()
            before = [text[i : i + 3].tolist() for i in range(first - 3)]
            assert key_and_value in before
            assert tokenizer.decode(text[first - 1 : first]).strip() in NOUNS


def test_rows_do_not_depend_on_what_was_read_before(tokenizer):
    one = open_mixture(["stdlib:copy=0.3"], tokenizer, seed=1)
    two = open_mixture(["stdlib:copy=0.3"], tokenizer, seed=1)
    for number in range(7):
        two.row(number, 64)
    for name, values in one.row(5, 64).items():
        assert np.array_equal(values, two.row(5, 64)[name])
    other = open_mixture(["stdlib:copy=0.3"], tokenizer, seed=2)
    assert not np.array_equal(one.row(5, 64)["input_ids"], other.row(5, 64)["input_ids"])


def test_training_text_is_not_the_held_out_text(tokenizer):
    rows = {s: RetrievalRows(parse_source(f"stdlib:split={s}"), tokenizer, 0) for s in
            ("train", "held_out")}  # fmt: skip
    files = {
        held: [t for n, t in stdlib_files()[:FILES] if is_held_out(n) is held]
        for held in (False, True)
    }
    for split, held in (("train", False), ("held_out", True)):
        stream = rows[split].stream
        assert stream.starts is not None
        assert len(stream.starts) == len(files[held])
        start, end = stream.starts[:2]
        assert tokenizer.decode(stream.tokens[start + 1 : end]) == files[held][0]


def test_copy_rows_repeat_and_score_the_repetition(tokenizer):
    row = RetrievalRows(parse_source("stdlib:copy=1"), tokenizer, 0).row(0, 64)
    ids, weights = row["input_ids"], row["loss_weights"]
    period = int(np.flatnonzero(weights)[0]) - 1
    assert np.array_equal(ids[period:], ids[: 64 - period])
    assert period <= 32
