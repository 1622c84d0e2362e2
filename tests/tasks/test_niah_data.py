"""Needle grids from files: essays of the hub, the data command, damaged data."""

import argparse
import json

import pyarrow
import pyarrow.parquet
import pytest

from ctxbench.core.assets import cache_dir
from ctxbench.tasks import data_cli, sentences, specs
from ctxbench.tasks.niah import dataset, haystack
from ctxbench.tasks.tokenizer import load_tokenizer


@pytest.fixture(scope="module", autouse=True)
def data(data_dir):
    patch = pytest.MonkeyPatch()
    patch.setenv("CTXBENCH_DATA", str(data_dir))
    yield data_dir
    patch.undo()


def tokens_of(name, text):
    return load_tokenizer(name)(text).input_ids


def test_the_hubs_essays_are_read_from_a_file_of_the_same_schema(data, tmp_path, monkeypatch):
    (tmp_path / "nltk_data").symlink_to(data / "nltk_data")
    monkeypatch.setenv("CTXBENCH_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"baber/paul_graham_essays \(revision 792d672b"):
        haystack.load_haystack()
    text = json.loads((data / "PaulGrahamEssays.json").read_text())["text"]
    halves = {"text": [text[:200_000], text[200_000:400_000]]}
    pyarrow.parquet.write_table(pyarrow.table(halves), tmp_path / "paul_graham_essays.parquet")
    essays = haystack.load_haystack()
    assert essays.words_to(3)[:3] == ["July", "2010What", "hard"]
    doc = dataset.load(1024, tokenizer="mini", samples=10)["test"][9]
    assert len(tokens_of("mini", dataset.doc_to_text(doc))) == doc["tokens"] <= 1024 - 50


def test_ctxbench_data_builds_and_verifies_needles(tmp_path, monkeypatch, capsys):
    sentences = cache_dir() / "sentences"
    monkeypatch.setenv("CTXBENCH_CACHE", str(tmp_path))
    (tmp_path / "sentences").symlink_to(sentences)
    parser = argparse.ArgumentParser()
    data_cli.add_parser(parser.add_subparsers())

    def run(*words):
        options = parser.parse_args(["data", *words])
        return options.run(options)

    for task in ("niah_1k", "niah_lceg_1000", "passkey_1k"):
        assert run("build", task, "--tokenizer", "mini") == 0
    assert run("build", "niah_lceg_1000", "--tokenizer", "mini", "--fidelity", "lceg") == 0
    assert len(list(specs.files())) == 4
    assert sum(path.stat().st_size for path in specs.files()) < 60_000
    assert run("verify", "--prompts") == 0
    assert capsys.readouterr().out.count("samples whole") == 4
    with pytest.raises(ValueError, match="no task or group 'niah_5x'"):
        run("build", "niah_5x", "--tokenizer", "mini")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("PaulGrahamEssays.json", b'{"text": "July 20'),
        ("PaulGrahamEssays.json", b'{"essays": "July"}'),
        ("PaulGrahamEssays.json", b'{"text": 5}'),
        ("PaulGrahamEssays.json", b'{"text": " "}'),
        ("PaulGrahamEssays.json", b'{"text": "\xff"}'),
        ("paul_graham_essays.parquet", b"PAR1" + b"x" * 40),
        ("paul_graham_essays.parquet", b""),
        ("paul_graham_essays.parquet", {"title": ["a"]}),
        ("paul_graham_essays.parquet", {"text": ["a", None]}),
    ],
)
def test_damaged_essays_are_named(tmp_path, monkeypatch, name, content):
    monkeypatch.delenv("CTXBENCH_DATA")
    if isinstance(content, dict):
        pyarrow.parquet.write_table(pyarrow.table(content), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    said = {"json": "download_paulgraham_essay", "parquet": "fetch it again"}[name.split(".")[1]]
    with pytest.raises(ValueError, match=rf"{name}.*{said}"):
        haystack.load_haystack(str(tmp_path))


def test_missing_and_damaged_sentence_splitters_are_named(tmp_path, monkeypatch):
    """Punkt is looked for in the data folders, then where NLTK looks: nowhere, here."""
    monkeypatch.setenv("CTXBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CTXBENCH_DATA", raising=False)
    for variable in ("NLTK_DATA", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"punkt_tab was not found.*nltk\.downloader"):
        sentences.sentence_spans("One. Two.", str(tmp_path))
    folder = tmp_path / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    (folder / "collocations.tab").write_text("x")
    with pytest.raises(ValueError, match=r"punkt_tab/english are damaged.*nltk\.downloader"):
        sentences.sentence_spans("One. Two.", str(tmp_path))


def test_damaged_sentence_borders_are_found_again(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CTXBENCH_CACHE", str(tmp_path))
    spans = sentences.sentence_spans("One. Two.", str(data))
    (cached,) = tmp_path.rglob("*.npy")
    cached.write_bytes(cached.read_bytes()[:-8])
    assert (sentences.sentence_spans("One. Two.", str(data)) == spans).all()
    assert "are damaged" in caplog.text
