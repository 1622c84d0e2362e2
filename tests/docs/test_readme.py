"""`python -m tests.docs.readme` runs what the README says, and notices what it does not list."""

import os

import pytest

from tests.docs import readme
from tests.docs.pages import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_command_of_the_readme_is_run_or_listed_with_a_reason():
    found = readme.commands(TEXT)
    lines = readme.to_run(found)
    assert lines[0] == "pip install -c constraints.txt ."
    assert len(lines) + len(readme.NOT_RUN) == len(found)
    assert all(len(reason.split()) > 2 for reason in readme.NOT_RUN.values())
    assert not set(readme.NOT_RUN) & set(readme.QUICKER)
    assert any("ctxbench study mini --quick" in line for line in lines)
    assert any(line.startswith("python -c\n") for line in lines)


def test_commands_stand_in_the_order_of_the_page():
    page = (
        "`ctxbench ls` first.\n\n```bash\nlm_eval --a b && \\\n  ctxbench x\nexport A=1\n```\n"
        "```python\nprint(1)\n```\n`ctxbench` is a name, `ctxbench\nplan m` broken, `ctxbench ls`"
    )
    assert readme.commands(page) == [
        *("ctxbench ls", "lm_eval --a b", "ctxbench x", "export A=1"),
        *("python -c\nprint(1)\n", "ctxbench plan m"),
    ]


def test_a_list_that_has_what_the_page_has_not_is_an_error():
    with pytest.raises(
        ValueError, match=r"README\.md has not, and the lists have: .*ctxbench-train"
    ):
        readme.to_run([line for line in readme.commands(TEXT) if "ctxbench-train" not in line])


def test_a_command_that_is_neither_listed_nor_works_ends_with_its_output(tmp_path, capsys):
    (line,) = readme.commands("```bash\nctxbench-tune --fast\n```\n")
    with pytest.raises(SystemExit, match=r"(?s)not found.*status 127 of\nctxbench-tune --fast$"):
        readme.run(line, tmp_path, dict(os.environ))
    assert capsys.readouterr().out.endswith(" s  ctxbench-tune --fast\n")


def test_the_environment_has_nothing_of_the_tests_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXBENCH_DATA", "/data")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    given = readme.environment(tmp_path / "venv", tmp_path / "cache")
    assert given["PATH"].startswith(f"{tmp_path}/venv/bin")
    assert {"CTXBENCH_DATA", "PYTHONPATH", "VIRTUAL_ENV"}.isdisjoint(given)


def test_ci_runs_the_readme_before_the_extras_and_ends_with_the_tests():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    readme_line = next(n for n, line in enumerate(lines) if "tests.docs.readme" in line)
    extras = next(n for n, line in enumerate(lines) if "[test,dev]" in line)
    assert readme_line < extras
    assert lines[-2:] == ["pytest", "pytest -m slow"]
