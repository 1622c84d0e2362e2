"""Sizes that nobody expects, and files that are more than they seem."""

import json
import pickle
import struct

import numpy as np
import pytest

import ctxbench
from ctxbench.core.text_files import read_records
from ctxbench.report.write import write_report
from ctxbench.train.sources import open_stream, parse_source
from ctxbench.train.tokens.store import DOCUMENTS, META, PLACED, VERSION, TokenStore, shard_name
from tests.report.synthetic import mini_plan, write_study


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plan: plan["rows"][0].update(label="L" * 10**6), "at most 200 characters"),
        (lambda plan: plan.update(title="T" * 10**6), "at most 200 characters"),
        (lambda plan: plan.update(notes=["N" * 10**6]), "at most 10,000 characters"),
    ],
)
def test_texts_of_a_million_characters_are_refused(tmp_path, change, words):
    """A page of 83 MB came of one label."""
    plan = mini_plan(lengths=(128,), seeds=(0,))
    change(plan)
    study = write_study(tmp_path / "study", plan, samples=2)
    with pytest.raises(ValueError, match=words) as caught:
        write_report(study, figures=False)
    assert len(str(caught.value)) < 2000
    assert not (study / "report").exists()


def test_a_line_of_50_megabytes_is_read(tmp_path):
    file = tmp_path / "a.jsonl"
    text = "import os\n" * (50 * 2**20 // 10)
    file.write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "b"}) + "\n")
    first, second = (record["text"] for _, record in read_records(file, ["text"]))
    assert len(first) == len(text)
    assert second == "b"


def test_a_store_of_more_than_two_to_the_31_tokens_is_read_at_its_end(tmp_path):
    """Sparse shards: 8 GiB that take no room."""
    shard, count = 2**29, 2**31 + 1000
    sizes = [shard] * 4 + [1000]
    for number, size in enumerate(sizes):
        with open(tmp_path / shard_name(number), "wb") as stream:
            stream.truncate(size * 4)
    with open(tmp_path / shard_name(4), "r+b") as stream:
        stream.write(np.arange(1, 1001, dtype="<u4").tobytes())
    placed = np.array([(0, 2**31, 0), (2**31, 1000, 0)], dtype=PLACED)
    np.save(tmp_path / DOCUMENTS, placed)
    meta = {"version": VERSION, "tokens": count, "shard_tokens": shard, "dtype": "uint32"}
    meta |= {"sources": {"": {}}, "tokenizer": "x"}
    (tmp_path / META).write_text(json.dumps(meta))
    store = TokenStore(tmp_path)
    assert len(store.tokens) == count
    assert store.tokens[2**31 - 2 : 2**31 + 3].tolist() == [0, 0, 1, 2, 3]
    assert store.tokens[count - 1 : count].tolist() == [1000]


def test_a_hundred_thousand_documents_of_one_token(tmp_path, tokenizer):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}\n' * 100_000)
    one = tokenizer("a", add_special_tokens=False)["input_ids"]
    tokens = open_stream(parse_source(str(file)), tokenizer).tokens
    assert len(tokens) % 100_000 == 0
    assert int((np.asarray(tokens) == one[0]).sum()) == 100_000


HEADERS = {
    "a length beyond the file": struct.pack("<Q", 2**60) + b"{}",
    "tensors beyond the file": b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}',
    "a shape that is none": b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
    "overlapping tensors": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "no JSON": b"{" * 60,
}


@pytest.mark.parametrize("name", HEADERS)
def test_false_headers_of_safetensors(name, checkpoint):
    header = HEADERS[name]
    if not name.startswith("a length"):
        header = struct.pack("<Q", len(header)) + header + b"\0" * 4
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors").write_bytes(header)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        ctxbench.load_model(checkpoint)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_pickled_states_beside_a_model_are_never_opened(checkpoint, tmp_path):
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth", "x.pkl"):
        (checkpoint / name).write_bytes(pickle.dumps(Evil()))
    model, _ = ctxbench.load_model(checkpoint, "yarn", length=1024)
    ctxbench.export_checkpoint(checkpoint, tmp_path / "out", "yarn", length=1024)
    assert model.config.num_hidden_layers
    assert not [p for p in (tmp_path / "out").iterdir() if p.suffix in (".pt", ".bin", ".pkl")]
    np.save(tmp_path / "a.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    _, tokenizer = ctxbench.load_model("mini", "none")
    with pytest.raises(ValueError, match=r"a\.npy"):
        open_stream(parse_source(str(tmp_path / "a.npy")), tokenizer)
