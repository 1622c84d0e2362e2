"""Links lead somewhere, generated parts are up to date, everything public is documented."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ctxbench
from tests.docs.pages import GENERATED, PAGES, ROOT, anchors, links, name

PACKAGE = ROOT / "ctxbench"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_local_links_lead_somewhere(page):
    for link in links(page):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{name(page)} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target) | {a.replace("_", "-") for a in anchors(target)}, link


def test_a_broken_link_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("[a](nowhere.md), `[b](not/a/link)`, ![c](picture.png)\n")
    assert links(page) == ["nowhere.md", "picture.png"]


def test_generated_parts_are_up_to_date():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    pages = generate.pages()
    assert set(pages) >= GENERATED
    for file, text in pages.items():
        assert file.read_text() == text, f"{name(file)} is out of date; run python docs/generate.py"


def test_every_page_is_in_the_index():
    index = ROOT / "docs" / "index.md"
    linked = {Path(link).name for link in links(index)}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= linked | {"index.md"}


def test_the_api_page_has_all_that_is_public():
    text = (ROOT / "docs" / "api.md").read_text()
    documented = re.findall(r"\.\. auto\w+:: (\S+)", text)
    assert {f"ctxbench.{public}" for public in ctxbench.__all__} <= set(documented)
    for dotted in documented:
        module, _, attribute = dotted.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__


def public_without_docstring(tree: ast.AST, where: str) -> list[str]:
    """Return public classes and functions of a module, and methods of such classes, without one."""
    missing = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                missing.append(f"{where}:{node.lineno} {node.name}")
            if isinstance(node, ast.ClassDef):
                missing += public_without_docstring(node, where)
    return missing


def test_everything_public_has_a_docstring():
    missing = []
    for file in sorted(PACKAGE.rglob("*.py")):
        tree, where = ast.parse(file.read_text()), str(file.relative_to(ROOT))
        if not ast.get_docstring(tree):
            missing.append(where)
        missing += public_without_docstring(tree, where)
    assert missing == []


@pytest.mark.slow
def test_the_documentation_builds_without_warnings(tmp_path):
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip("needs the extra docs: pip install '.[docs]'")
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    done = subprocess.run(
        [*build, str(ROOT / "docs"), str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Position Interpolation" in (tmp_path / "methods.html").read_text()
