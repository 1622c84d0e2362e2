"""`ctxbench data`: build, ls, verify, rm, and what they say when something is wrong."""

import argparse

import pytest

from ctxbench.tasks import data_cli, specs


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXBENCH_CACHE", str(tmp_path))
    parser = argparse.ArgumentParser()
    data_cli.add_parser(parser.add_subparsers())

    def run(*arguments):
        options = parser.parse_args(["data", *arguments])
        return options.run(options)

    return run


def test_build_list_verify_remove(command, capsys):
    assert command("build", "ruler_4k_tracing", "--tokenizer", "mini", "--samples", "2") == 0
    assert command("build", "ruler_4k_fwe", "--tokenizer", "mini", "--samples", "2") == 0
    capsys.readouterr()
    assert command("ls") == 0
    listed = capsys.readouterr().out
    assert "ruler_4k_vt-" in listed
    assert "2 samples" in listed
    assert "fidelity nvidia, seed 42" in listed
    assert command("verify", "--prompts") == 0
    (path,) = specs.files("ruler_4k_vt")
    path.write_bytes(path.read_bytes()[:-20])
    assert command("verify") == 1
    assert "damaged" in capsys.readouterr().out
    assert command("rm", "ruler_4k_vt") == 0
    assert [p.stem.rpartition("-")[0] for p in specs.files()] == ["ruler_4k_fwe"]


def test_verify_notices_other_tokens(command, capsys):
    command("build", "ruler_4k_vt", "--tokenizer", "mini", "--samples", "1")
    (path,) = specs.files()
    found = specs.read(path)
    found.rows[0]["tokens"] += 1
    specs.write(path, found.key, found.report, found.rows)
    assert command("verify", "--prompts") == 1
    assert "were recorded" in capsys.readouterr().out


def test_wrong_names_are_errors(command):
    with pytest.raises(ValueError, match="no task or group 'ruler_5x'"):
        command("build", "ruler_5x", "--tokenizer", "mini")
    with pytest.raises(ValueError, match="has no data to build"):
        command("build", "longbench_4k", "--tokenizer", "mini")
    with pytest.raises(ValueError, match="No data is called 'nothing'"):
        command("rm", "nothing")
