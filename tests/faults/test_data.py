"""Damaged and hostile data, names and caches."""

import gzip
import json
import logging

import numpy as np
import pytest

from ctxbench import cli
from ctxbench.methods.registry import get_method
from ctxbench.models.answers import AnswerCache
from ctxbench.tasks import specs
from ctxbench.train.recipes import read_recipe
from ctxbench.train.sources import open_stream, parse_source

DAMAGED_DATA = {
    "cut.jsonl": (b'{"text": "abc"}\n{"text": "de', "line 2 is not a JSON object"),
    "bytes.jsonl": (b'{"text": "\xff"}\n', "line 1 is not a JSON object"),
    "list.jsonl": (b"[1, 2]\n", "line 1 is not a JSON object"),
    "cut.jsonl.gz": (gzip.compress(b'{"text": "abc"}\n' * 999)[:60], "is damaged, cut short"),
    "not.jsonl.gz": (b'{"text": "abc"}\n', "is damaged, cut short"),
    "cut.parquet": (b"PAR1" + b"x" * 40, "is damaged, cut short"),
    "latin.txt": (b"na\xefve", "is damaged, cut short.*UTF-8"),
    "half.jsonl": (
        b'{"text": "\\ud83d x"}\n',
        r"half.jsonl line 1 is no valid text: it holds half of a surrogate pair",
    ),
    "number.jsonl": (
        b'{"text": 5}\n',
        "number.jsonl line 1 holds 5; it must be a text, or input_ids",
    ),
    "ids.jsonl": (
        b'{"input_ids": [1, 99999]}\n',
        "ids.jsonl line 1 holds the token ids 1 to 99999.*were made with another one",
    ),
    "words.jsonl": (b'{"input_ids": ["a"]}\n', "a list of token ids"),
    "null.jsonl": (b'\n{"text": null}\n', "null.jsonl line 2 has neither 'text' nor input_ids"),
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
    kept = [p for p in cache.rglob("*") if p.is_file() and p.parent.name != "digests"]
    assert not kept, "nothing half made is kept"


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
def test_damaged_samples_of_tasks_are_named(damage):
    key = {"leaf": "ruler_1k_vt", "seed": 1}
    path = specs.get(key, lambda: ([{"a": 1}, {"a": 2}], {})).path
    path.write_bytes(path.read_bytes()[:-3] if damage == "cut" else damage)
    with pytest.raises(ValueError, match=r"is damaged .*ctxbench data rm ruler_1k_vt"):
        specs.get(key, lambda: pytest.fail("silently made again"))
