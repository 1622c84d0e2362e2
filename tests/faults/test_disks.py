"""Full disks and forbidden folders."""

import errno
import json
import os
import sys

import numpy as np
import pytest
import torch

from ctxbench import cli
from ctxbench.core.atomic_file import write_atomically
from ctxbench.core.errors import show_user_errors_plainly
from ctxbench.models.answers import AnswerCache
from ctxbench.train import cli as train_cli
from ctxbench.train.checkpoint import find_checkpoint, save_checkpoint
from ctxbench.train.sources import open_stream, parse_source


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
