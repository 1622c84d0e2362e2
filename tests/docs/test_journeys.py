"""CONTRIBUTING's journeys: numbered one-way hops, each a file and a function that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("\n## Six journeys\n")[2].partition("\n## ")[0]
HOP = re.compile(r"^(\d+)\. `([\w/]+\.py)`, `([\w.]+)`: \S")


def journeys() -> dict[str, list[tuple[str, str]]]:
    found = {}
    for part in SECTION.split("\n### ")[1:]:
        title, _, body = part.partition("\n")
        lines = [line for line in body.splitlines() if re.match(r"\d+\. ", line)]
        hops = [HOP.match(line) for line in lines]
        assert all(hops), f"{title}: {[x for x, hop in zip(lines, hops, strict=True) if not hop]}"
        assert [int(hop[1]) for hop in hops if hop] == list(range(1, len(hops) + 1)), title
        found[title] = [(hop[2], hop[3]) for hop in hops if hop]
    return found


def definitions(file: Path) -> set[str]:
    """Names of functions, classes and methods (`Class.method`) of a file."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{x.name}" for x in node.body if isinstance(x, ast.FunctionDef)}
    return found


def test_there_are_six():
    assert list(journeys()) == [
        "An evaluation request",
        "A generation",
        "A training batch",
        "A study cell",
        "A new method",
        "A new task",
    ]


@pytest.mark.parametrize("title", journeys())
def test_each_hop_exists_and_none_goes_back(title):
    hops = journeys()[title]
    assert len(hops) >= 4
    for file, name in hops:
        assert (ROOT / file).is_file(), file
        assert name in definitions(ROOT / file), f"{file} defines no {name}"
    files = [
        file for number, (file, _) in enumerate(hops) if hops[number - 1][0] != file or not number
    ]
    assert len(files) == len(set(files)), f"{title} comes back to a file it has left"


# ------------------------------------------------------------------- docs/faults.md


def _tests_in(place: Path) -> set[str]:
    files = place.rglob("test_*.py")
    return {n for f in files for n in re.findall(r"^def (test_\w+)", f.read_text(), re.M)}


def test_every_fault_of_the_page_names_a_test():
    rows = re.findall(r"^\|.*\| `(\w+)` \|$", (ROOT / "docs" / "faults.md").read_text(), re.M)
    assert len(rows) > 30
    assert set(rows) <= _tests_in(ROOT / "tests")
    assert _tests_in(ROOT / "tests" / "faults") <= set(rows), "a fault without a row"
