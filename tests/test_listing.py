"""`ctxbench ls`: one name in detail; no file is run, and a broken one is in nobody's way."""

import dataclasses
import logging

import pytest

from ctxbench.cli import main
from ctxbench.methods.registry import list_methods, method_class

RUNS = 'raise SystemExit("this file was run")\nimport ctxbench\n'


@pytest.mark.parametrize("name", ["yarn", "landmark", "none", "longrope"])
def test_a_method_is_shown_with_its_options_defaults_and_paper(name, capsys):
    assert main(["ls", name]) == 0
    said = capsys.readouterr().out
    assert "http" in said or name == "none"
    own = vars(method_class(name)).get("__annotations__", {})
    for field in dataclasses.fields(method_class(name)):
        if field.name in own:
            assert f"\n  {field.name} = {field.default!r}  (" in said


def test_presets_rows_and_tasks_are_shown(capsys):
    for name, words in (
        ("ntk-32k", "preset ntk-32k: dynamic_ntk factor=4"),
        ("llama2-7b-pi-32k", "row llama2-7b-pi-32k"),
        ("ruler_4k", "group of ruler_4k_retrieval"),
        ("mini_needle_1k", "task mini_needle_1k"),
    ):
        assert main(["ls", name]) == 0
        assert words in capsys.readouterr().out
    assert main(["ls", "yarm"]) == 2
    assert "did you mean yarn?" in capsys.readouterr().err


def test_a_broken_method_file_does_not_block_the_others(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setenv("CTXBENCH_METHODS", str(tmp_path))
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "good.py").write_text(
        f'{RUNS}class Good(ctxbench.YaRN, name="good"):\n    """G\x1b[2J."""\n    x: int = 3\n'
    )
    with caplog.at_level(logging.WARNING):
        assert "good" in list_methods()
        assert main(["ls", "good"]) == 0
    assert "broken.py, line 1, is not Python" in caplog.text
    said = capsys.readouterr().out
    assert "x = 3  (int)" in said
    assert "\x1b" not in said
    with pytest.raises(ValueError, match=r"broken\.py, line 1, is not Python"):
        method_class("broken")
    with pytest.raises(ValueError, match=r"There is no method 'other'.*Passed over: .*broken\.py"):
        method_class("other")
