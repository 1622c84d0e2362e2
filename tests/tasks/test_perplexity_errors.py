"""Bad options and damaged files of the perplexity tasks say what to do."""

import gzip

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.tasks.texts import save_tokenizer, shards, write_jsonl


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(tokenizer_path):
    return AutoTokenizer.from_pretrained(tokenizer_path)


def test_errors_say_what_to_do(tmp_path, tokenizer_path, monkeypatch):
    monkeypatch.delenv("CTXBENCH_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = write_jsonl(tmp_path / "t.jsonl", ["a text of words"])
    with pytest.raises(FileNotFoundError, match="text_path"):
        shards(None, tokenizer_path, text_path=None)
    with pytest.raises(FileNotFoundError, match="is not a file"):
        shards(tmp_path / "none.jsonl", tokenizer_path)
    with pytest.raises(ValueError, match="ppl_documents"):
        shards(path, tokenizer_path, ctx_length=65536)
    with pytest.raises(ValueError, match="ppl_stride"):
        shards(path, tokenizer_path, ppl_stride=0)
    with pytest.raises(ValueError, match="ppl_documents=-1"):
        shards(path, tokenizer_path, ppl_documents=-1)
    with pytest.raises(ValueError, match="ppl_chunk"):
        shards(path, tokenizer_path, ppl_chunk=100)
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"content": "x"}\n')
    with pytest.raises(ValueError, match=r"content.*'text'"):
        shards(wrong, tokenizer_path)
    blank = write_jsonl(tmp_path / "blank.jsonl", ["", " \n"])
    with pytest.raises(ValueError, match="2 empty"):
        shards(blank, tokenizer_path)
    with pytest.raises(ValueError, match="known are"):
        shards(__file__, tokenizer_path)


def test_token_file_errors(tmp_path, tokenizer, tokenizer_path):
    odd = tmp_path / "odd.bin"
    odd.write_bytes(b"\0\0\0")
    with pytest.raises(ValueError, match="whole number"):
        shards(odd, tokenizer_path)
    other = tmp_path / "other.bin"
    np.array([tokenizer.bos_token_id, 5000], dtype="<u2").tofile(other)
    with pytest.raises(ValueError, match="5000"):
        shards(other, tokenizer_path)
    with pytest.raises(ValueError, match="bin_dtype='int8'"):
        shards(other, tokenizer_path, bin_dtype="int8")
    no_bos = tmp_path / "no_bos.bin"
    np.full(2000, 7, dtype="<u2").tofile(no_bos)
    with pytest.raises(ValueError, match="ppl_documents to 0"):
        shards(no_bos, tokenizer_path)
    assert len(shards(no_bos, tokenizer_path, ppl_documents=0)["test"]) == 1


def test_windows_longer_than_the_models_are_told_when_the_task_is_built(tmp_path, tokenizer_path):
    path = write_jsonl(tmp_path / "t.jsonl", ["a text of words " * 300])
    with pytest.raises(ValueError, match=r"text_ppl_512 has .* window is 256 tokens"):
        shards(path, tokenizer_path, length=256)
    shards(path, tokenizer_path, length=512)
    shards(path, tokenizer_path, length=256, ppl_chunk=256)  # no more is read at once


DAMAGED = {
    "cut.jsonl": (b'{"text": "abc"}\n\n{"text": "de', "cut.jsonl line 3 is not a JSON object"),
    "latin.jsonl": (b'{"text": "\xff"}\n', "latin.jsonl line 1 is not a JSON object.*utf-8"),
    "list.jsonl": (b"[1, 2]\n", "list.jsonl line 1 is not a JSON object"),
    "number.jsonl": (b'{"text": "a"}\n{"text": 5}\n', "number.jsonl line 2: text is int"),
    "half.jsonl": (b'{"text": "\\ud83d x"}\n', "half.jsonl line 1: text is no valid text"),
    "cut.jsonl.gz": (gzip.compress(b'{"text": "abc"}\n')[:20], "cut.jsonl.gz line 1 is damaged"),
    "not.jsonl.gz": (b'{"text": "abc"}\n', "not.jsonl.gz line 1 is damaged"),
    "cut.parquet": (b"PAR1" + b"x" * 40, "cut.parquet is damaged"),
    "none.parquet": (b"", "none.parquet is damaged"),
    "latin.txt": (b"na\xefve", "latin.txt is damaged.*UTF-8"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_texts_are_named(tmp_path, tokenizer_path, name):
    content, words = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{words}.*Fetch or write the file again"):
        shards(tmp_path / name, tokenizer_path)
