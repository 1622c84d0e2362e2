"""Who imports whom, what an import costs, and what the README says."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from ctxbench import listing

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ctxbench"

# package -> what it may import of ours besides `core`; a file in ctxbench/ is named by its stem
ALLOWED = {
    "core": set(),
    "_startup": {"plugin", "tasks.leaf_files"},
    "plugin": {"tasks.leaf_files"},
    "methods": {"methods"},
    "models": {
        *("methods", "models", "tasks.additivity", "tasks.chat", "tasks.leaf_files", "__init__"),
    },
    "tasks": {"tasks", "__init__"},
    "train": {
        *("methods", "models.checks", "models.choosing", "models.loading", "train", "__init__"),
    },
    "report": {"report"},
    "study": {"study", "methods.registry", "tasks.leaf_files", "train.config", "train.cost"},
    "doctor": {"models.examine"},
    "listing": {"methods", "tasks.leaf_files", "train.recipes"},
    "validate": {
        "listing",
        "methods",
        "models",
        "tasks.leaf_files",
        "tasks.tokenizer",
        "train",
        "validate",
    },
}


def imports(file: Path) -> set[str]:
    """Names of our modules a file imports, at any depth, relative to the package."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "ctxbench":
                found |= {f"ctxbench.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return {name.removeprefix("ctxbench.") for name in found if name.split(".")[0] == "ctxbench"}


def test_layers():
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        part = file.relative_to(PACKAGE).parts
        home = part[0].removesuffix(".py")
        if home in ("__init__", "cli"):
            continue
        for name in imports(file):
            if name.startswith("__version__"):
                continue
            allowed = ALLOWED[home] | {"core"}
            if name.split(".")[0] not in allowed and not any(
                name == entry or name.startswith(f"{entry}.") for entry in allowed
            ):
                wrong.append(f"{file.relative_to(ROOT)} imports ctxbench.{name}")
    assert wrong == []


def test_no_import_cycle():
    """No module reaches itself, be it by an import inside a function."""
    files = {
        ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file
        for file in PACKAGE.rglob("*.py")
    }
    graph = {name: _modules(file, files) - {"__init__"} for name, file in files.items()}
    while removed := {name for name, needs in graph.items() if not needs & graph.keys()}:
        graph = {name: needs for name, needs in graph.items() if name not in removed}
    assert graph == {}, "each of these is in an import cycle, or needs one that is"


def _modules(file: Path, known: Iterable[str]) -> set[str]:
    """Modules of ours a file imports: of `from ctxbench.a import b` a.b if that is a module."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner.removeprefix("ctxbench.") in known else node.module)
    return {name.removeprefix("ctxbench.") for name in found if name.startswith("ctxbench.")}


def test_methods_and_report_know_nothing_of_the_harness():
    for folder in ("methods", "report", "train", "study"):
        for file in (PACKAGE / folder).rglob("*.py"):
            assert not re.search(r"^\s*(from|import) lm_eval", file.read_text(), re.M), file


def test_no_method_is_named_outside_its_file():
    for folder in ("methods", "models", "train", "tasks", "study"):
        for file in (PACKAGE / folder).rglob("*.py"):
            assert not re.search(r"method(\.name)? == [\"'](?!None)", file.read_text()), file


def test_importing_is_light():
    code = (
        "import sys; before = set(sys.modules); import ctxbench; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"ctxbench", "ctxbench._startup"}


def test_listing_loads_no_torch():
    code = (
        "import sys; from ctxbench.cli import main; main(['ls']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "dynamic_ntk" in done.stdout
    assert "mini_needle_{128,256,512,1k,2k,4k}" in done.stdout


@pytest.mark.parametrize(
    ("mark", "rows", "head"),
    [
        ("methods", listing.methods_table, ("method", "what it does")),
        ("tasks", listing.tasks_table, ("tasks", "what they measure")),
    ],
)
def test_readme_tables_are_generated(mark, rows, head):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    begin, end = f"<!-- begin {mark} -->\n", f"<!-- end {mark} -->"
    inside = text.partition(begin)[2].partition(end)[0]
    assert inside == listing.markdown(rows(), head), (
        f"README's table of {mark} is out of date; run python -m ctxbench.listing README.md"
    )


def test_what_our_commands_write_is_not_tracked():
    """But for a study's archive, its page and the figures that the README shows."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    tracked = done.stdout.splitlines()
    assert not [name for name in tracked if re.match(r"ctxbench/tasks/.*/leaves/", name)]
    allowed = re.compile(
        r"results/(paper/\w+\.(md|json)|[\w-]+/(README\.md|cells\.jsonl\.xz|report/report\.html"
        r"|report/figures/figure-\d\.png|heatmap_\w+\.png))"
    )
    assert [n for n in tracked if n.startswith("results/") and not allowed.fullmatch(n)] == []
