"""docs/faults.md says what happens on each fault; each row is a test."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def found_in(place: Path) -> set[str]:
    files = place.rglob("test_*.py") if place.is_dir() else [place]
    return {n for f in files for n in re.findall(r"^def (test_\w+)", f.read_text(), re.M)}


def test_every_row_of_the_page_names_a_test():
    rows = re.findall(r"^\|.*\| `(\w+)` \|$", (ROOT / "docs" / "faults.md").read_text(), re.M)
    assert len(rows) > 30
    assert set(rows) <= found_in(ROOT / "tests")
    mine = found_in(Path(__file__).parent) - found_in(Path(__file__))
    assert mine <= set(rows), "a fault without a row"
