"""Findings are computed from the cells: change the cells and the verdict changes."""

import json

import pytest

from ctxbench.report.findings import findings
from ctxbench.report.numbers import Measure, Numbers
from ctxbench.report.paper_findings import PAPER_FINDINGS
from ctxbench.report.study_results import load_study
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


def rewrite(folder, row, column, change, seed="*"):
    """Change every sample of a row's cells in a column, of all seeds or of one."""
    files = list((folder / "cells" / row).glob(f"{seed}/{column}/samples_*"))
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


def test_the_order_of_the_groups(copy):
    found = judge(copy)["same-order-on-seeds"]
    assert found.text == "The order of the groups is the same on two seeds"
    assert found.verdict == HOLDS
    assert [sentence.partition(";")[0] for sentence in found.evidence] == [
        "Perplexity at 2k: holds",
        "Needle at 2k: holds",
    ]
    for row in ("ntk_8x", "pi", "yarn"):
        rewrite(copy, row, "needle_2k", WRONG, "seed-1")
    found = judge(copy)["same-order-on-seeds"]
    assert found.verdict == FAILS, "by perplexity it still holds, by the needle it does not"
    assert found.evidence[0].startswith("Perplexity at 2k: holds; seed 0: Exact attention, fine-")
    needle = found.evidence[1]
    assert needle.startswith("Needle at 2k: does not hold; seed 0: Exact attention, fine-tuned 9")
    assert "seed 1: Exact attention, frozen" in needle
    moved = "Exact attention, fine-tuned and Exact attention, frozen change places: +"
    assert moved in needle
    assert "points over all seeds, told apart" in needle


def test_a_row_without_a_seed_takes_no_part_in_the_order(tmp_path, plan):
    folder = write_study(tmp_path / "s", plan, samples=20, missing=[("yarn", 1, "needle_2k")])
    sentence = judge(folder)["same-order-on-seeds"].evidence[1]
    assert sentence.endswith("; without YaRN, not on every seed")


def test_verdicts_by_seed(study, copy):
    assert judge(study)["pi-and-yarn-do-not"].by_seed == "seed 0: appears, seed 1: appears"
    rewrite(copy, "yarn", "needle_4k", RIGHT, "seed-1")
    found = judge(copy)["pi-and-yarn-do-not"]
    assert found.seeds == ((0, APPEARS), (1, PARTLY))
    (sentence,) = (s for s in found.evidence if s.startswith("YaRN, Needle at 4k"))
    assert sentence.endswith("(seed 0: yes, seed 1: no)")


def test_seeds_that_contradict_each_other_show_a_finding_in_part(copy):
    for row in ("pi", "yarn", "ntk_8x"):
        rewrite(copy, row, "needle_2k", RIGHT, "seed-0")
        rewrite(copy, row, "needle_2k", WRONG, "seed-1")
    rewrite(copy, "lm_infinite", "needle_2k", lambda n, old: float(n % 3 == 0))
    found = judge(copy)["approximate-below-exact"]
    assert found.seeds == ((0, APPEARS), (1, NOT))
    assert found.verdict == PARTLY


def test_one_seed_has_no_order_and_no_seeds_beside_it(tmp_path, plan):
    one = {**plan, "seeds": [0], "rows": [{**r, "seeds": r["seeds"][:1]} for r in plan["rows"]]}
    found = judge(write_study(tmp_path / "s", one, samples=6))
    assert found["same-order-on-seeds"].verdict == ABSENT
    assert all(f.seeds == () for f in found.values())
    assert not any("seed" in sentence for f in found.values() for sentence in f.evidence)


def test_pairing_decides_what_the_two_intervals_leave_open(copy):
    """Texts differ by more than the effect, but every text shows it."""
    for row, column in (
        ("base", "ppl_256"),
        ("pi", "ppl_2k"),
        ("yarn", "ppl_2k"),
        ("ntk_8x", "ppl_2k"),
    ):
        harder = 0.0 if column == "ppl_256" else 0.05
        rewrite(copy, row, column, lambda n, old, h=harder: [-64 * (2 + (n % 24) / 12 + h), 64])
    found = judge(copy)["trained-methods-hold"]
    tests = [s for s in found.evidence if "Perplexity at 2k" in s]
    assert len(tests) == 3
    for sentence in tests:
        assert "1.05 [1.05\u20131.05] times, paired over 24 texts: yes" in sentence
    study = load_study(copy)
    numbers = Numbers(study)
    at = {c.length: Measure("", (c,)) for c in study.of_kind("perplexity")}
    one = numbers.number(study.row("pi"), at[2048]).estimate
    two = numbers.number(study.row("base"), at[256]).estimate
    assert one.high / two.low > 1.1, "side by side nothing could be said"


def test_failed_cells_leave_a_claim_undecided(tmp_path, plan):
    folder = write_study(tmp_path / "s", plan, samples=50, failed=[("base", "needle_2k")])
    found = judge(folder)["base-collapses"]
    assert found.verdict == OPEN
    assert "at 256, a cell is not there: undecided" in found.evidence[1]


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
    for finding in PAPER_FINDINGS:
        assert not any(character.isdigit() for character in finding.text)
        assert not any(verdict in finding.text for verdict in (APPEARS, NOT, OPEN))
