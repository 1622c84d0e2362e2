"""Findings are computed from the cells: change the cells and the verdict changes."""

import json

import pytest

from ctxbench.report.claims import CLAIMS
from ctxbench.report.findings import findings
from ctxbench.report.numbers import Numbers
from ctxbench.report.study_files import load_study
from ctxbench.report.verdicts import ABSENT, APPEARS, FAILS, HOLDS, NOT, OPEN, PARTLY
from tests.report.synthetic import mini_plan, write_study

LENGTHS = (256, 512, 2048, 4096)
ROWS = ("base", "ntk_frozen", "pi", "yarn", "ntk_8x", "lm_infinite", "control")


def judge(folder):
    return {found.name: found for found in findings(Numbers(load_study(folder)))}


@pytest.fixture(scope="module")
def plan():
    made = mini_plan(lengths=LENGTHS)
    made["rows"] = [row for row in made["rows"] if row["name"] in ROWS]
    made["columns"] = [c for c in made["columns"] if c["kind"] in ("perplexity", "needle")]
    return made


@pytest.fixture(scope="module")
def study(plan, tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("findings") / "study", plan, samples=50)


@pytest.fixture
def copy(plan, tmp_path):
    return write_study(tmp_path / "study", plan, samples=50)


def rewrite(folder, row, column, change):
    """Change every sample of a row's cells in a column."""
    files = list((folder / "cells" / row).glob(f"*/{column}/samples_*"))
    assert files
    for file in files:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for number, line in enumerate(lines):
            for metric in line["metrics"]:
                line[metric] = change(number, line[metric])
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_synthetic_picture_is_the_paper_s(study):
    verdicts = {name: found.verdict for name, found in judge(study).items()}
    assert verdicts == {
        "base-collapses": APPEARS,
        "frozen-ntk-fades": APPEARS,
        "trained-methods-hold": APPEARS,
        "ntk-goes-beyond": APPEARS,
        "pi-and-yarn-do-not": APPEARS,
        "lm-infinite-reads-its-window": APPEARS,
        "approximate-below-exact": APPEARS,
        "control-below": APPEARS,
        "perplexity-predicts": verdicts["perplexity-predicts"],
        "same-order-on-seeds": HOLDS,
    }
    for found in judge(study).values():
        assert found.evidence
        assert all("[" in sentence or "seed" in sentence for sentence in found.evidence)


RIGHT, WRONG = (lambda n, old: 1.0), (lambda n, old: 0.0)


@pytest.mark.parametrize(
    ("name", "row", "column", "change", "verdict"),
    [
        ("base-collapses", "base", "needle_2k", RIGHT, NOT),
        ("base-collapses", "base", "needle_2k", lambda n, old: float(n % 4 == 0), OPEN),
        ("frozen-ntk-fades", "ntk_frozen", "needle_4k", RIGHT, NOT),
        ("trained-methods-hold", "pi", "needle_2k", WRONG, PARTLY),
        ("ntk-goes-beyond", "ntk_8x", "needle_4k", WRONG, NOT),
        ("ntk-goes-beyond", "ntk_8x", "ppl_4k", lambda n, old: [-64 * 5.0, 64], NOT),
        ("pi-and-yarn-do-not", "yarn", "needle_4k", RIGHT, PARTLY),
        ("lm-infinite-reads-its-window", "lm_infinite", "needle_2k", RIGHT, NOT),
        ("approximate-below-exact", "lm_infinite", "needle_2k", RIGHT, OPEN),
        ("control-below", "control", "needle_2k", RIGHT, OPEN),
    ],
)
def test_verdicts_follow_the_cells(copy, name, row, column, change, verdict):
    rewrite(copy, row, column, change)
    assert judge(copy)[name].verdict == verdict


def test_seeds_in_another_order(copy):
    for file in (copy / "cells" / "ntk_8x" / "seed-1" / "needle_2k").glob("samples_*"):
        file.write_text(file.read_text().replace('"score": 1.0', '"score": 0.0'))
    for row in ("pi", "yarn"):
        for file in (copy / "cells" / row / "seed-1" / "needle_2k").glob("samples_*"):
            file.write_text(file.read_text().replace('"score": 1.0', '"score": 0.0'))
    found = judge(copy)["same-order-on-seeds"]
    assert found.verdict == PARTLY, "the order by perplexity is still the same"
    assert "seed 0: Exact attention, fine-tuned" in found.evidence[1]
    assert "seed 1: Exact attention, fine-tuned" not in found.evidence[1]


def test_failed_cells_leave_a_claim_undecided(tmp_path, plan):
    folder = write_study(tmp_path / "s", plan, samples=50, failed=[("base", "needle_2k")])
    found = judge(folder)["base-collapses"]
    assert found.verdict == OPEN
    assert "undecided, a cell is not there" in found.evidence[1]


def test_what_a_study_has_not_is_not_measured(tmp_path, plan):
    few = {**plan, "rows": plan["rows"][:1]}
    verdicts = {n: f.verdict for n, f in judge(write_study(tmp_path / "s", few, 4)).items()}
    missing = [name for name, verdict in verdicts.items() if verdict == ABSENT]
    assert missing == [
        *("frozen-ntk-fades", "trained-methods-hold", "ntk-goes-beyond", "pi-and-yarn-do-not"),
        *("lm-infinite-reads-its-window", "approximate-below-exact", "control-below"),
        *("perplexity-predicts", "same-order-on-seeds"),
    ]


def test_nothing_is_typed():
    """No number and no verdict stands in a claim's text."""
    for claim in CLAIMS:
        assert not any(character.isdigit() for character in claim.text)
        assert not any(verdict in claim.text for verdict in (APPEARS, NOT, OPEN))
