"""More of the official generators' samples: Llama-2's tokenizer, another seed, LCEG's copy."""

import hashlib
import itertools
import json
from pathlib import Path

import pytest

from ctxbench.tasks.additivity import additivity
from ctxbench.tasks.ruler import dataset
from ctxbench.tasks.ruler.subtasks import SUBTASKS
from ctxbench.tasks.tokenizer import load_tokenizer

SHORT, LONG = 2048, 8192


@pytest.fixture(scope="module")
def data(data_dir):
    patch = pytest.MonkeyPatch()
    patch.setenv("CTXBENCH_DATA", str(data_dir))
    yield data_dir
    patch.undo()


def records(golden_dir: Path, name: str, subtask: str, length: int) -> list[dict]:
    lines = (golden_dir / "official2" / "ruler" / f"{name}.jsonl").read_text().splitlines()
    rows = map(json.loads, lines)
    return [row for row in rows if (row["task"], row["max_seq_length"]) == (subtask, length)]


def check(docs, rows: list[dict], ours) -> None:
    """Compare texts with the recorded ones, of which some are kept as a digest alone."""
    assert len(docs) == len(rows) > 0
    for doc, row in zip(docs, rows, strict=True):
        text = ours(doc)
        assert hashlib.sha256(text.encode()).hexdigest() == row["input_sha256"]
        assert row.get("input") in (None, text)
        assert doc["outputs"] == row["outputs"]
        assert doc["tokens"] == row["length"]


@pytest.mark.parametrize(
    ("subtask", "length"),
    [case for case in itertools.product(SUBTASKS, (SHORT, LONG)) if case != ("qa_2", SHORT)],
)
def test_nvidias_samples_with_llama_2(data, golden_dir, subtask, length):
    rows = records(golden_dir, "nvidia", subtask, length)
    name = str(data / "llama2")
    docs = dataset.load(subtask, length, tokenizer=name, samples=len(rows), seed=7)["test"]
    check(docs, rows, dataset.doc_to_text)
    assert [doc["gen_prefix"] for doc in docs] == [row["answer_prefix"] for row in rows]
    count = load_tokenizer(name).tokenize
    for doc in docs:
        prompt = dataset.doc_to_text(doc) + doc["gen_prefix"]
        new_tokens = SUBTASKS[subtask].family.new_tokens
        assert len(count(prompt)) + new_tokens == doc["tokens"] <= length


def test_where_the_official_loop_never_ends_a_question_is_skipped(data, golden_dir):
    (row,) = records(golden_dir, "nvidia", "qa_2", SHORT)
    assert row["status"] == "hang"
    metadata = {"tokenizer": str(data / "llama2"), "samples": 5, "seed": 7}
    found = dataset.get_specs("qa_2", SHORT, metadata)
    assert found.report["skipped"] > 0
    assert len(found.rows) == 5
    assert max(made["tokens"] for made in found.rows) <= SHORT
    with pytest.raises(ValueError, match=r"ruler_2k_qa_2 has a sample that cannot fit 2048"):
        dataset.get_specs("qa_2", SHORT, {**metadata, "unfit": "error"})


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_lcegs_samples(data, golden_dir, subtask):
    rows = records(golden_dir, "lceg", subtask, LONG)
    metadata = {"tokenizer": str(data / "tok"), "samples": len(rows), "fidelity": "lceg"}
    docs = dataset.load(subtask, LONG, **metadata)["test"]
    check(docs, rows, lambda doc: dataset.doc_to_text(doc) + doc["gen_prefix"])


def test_llama_2_is_counted_by_sums(data):
    assert additivity(load_tokenizer(str(data / "llama2"))).why_not is None
