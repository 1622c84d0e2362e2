"""The paper's tables as data reproduce its averages; its contradictions are the known ones."""

from statistics import fmean

import pytest

from ctxbench.report.paper import companion, paper_folder, read_table, read_tables

ROUNDING = 0.00501  # two printed decimals, and a mean's own rounding error


@pytest.mark.parametrize("number", range(1, 17))
def test_every_table_is_there_and_rectangular(number):
    data = read_table(number)
    width = len(data["methods"] if data["methods_in"] == "columns" else data["columns"])
    rows = data.get("rows") or [row for part in data["parts"] for row in part["rows"]]
    assert data["table"] == number
    assert {len(row["values"]) for row in rows} == {width}
    table = companion(number)
    assert {len(line.entries) for line in table.lines} == {len(table.heads)}
    numbers = [entry for line in table.lines for entry in line.entries if entry.text]
    assert all(float(entry.text.replace(",", "")) == entry.sort for entry in numbers)


@pytest.mark.parametrize("number", [4, 11, 12, 13, 14, 15, 16])
def test_printed_averages_are_the_means_of_the_rows(number):
    data = read_table(number)
    checked = 0
    for place, printed in enumerate(data["average"]):
        values = [row["values"][place] for row in data["rows"]]
        if printed is None:
            assert set(values) == {None}
            continue
        assert abs(fmean(values) - printed) < ROUNDING, data["methods"][place]
        checked += 1
    assert checked == {4: 10, 11: 11, 12: 11}.get(number, 10)


def test_longbench_lengths_have_the_printed_mean():
    data = read_table(11)
    mean = fmean(row["average_length"] for row in data["rows"])
    assert (mean, data["average_length"]) == (7425.9375, 7425)  # printed cut off, not rounded


def column(number, place):
    return {row["id"]: row["values"][place] for row in read_table(number)["rows"]}


def averages(number):
    data = read_table(number)
    ids = [method["id"] for method in data["methods"]]
    return dict(zip(ids, data["average"], strict=True))


def test_table_4_is_in_table_11():
    short, long = read_table(4), read_table(11)
    places = [[m["id"] for m in long["methods"]].index(m["id"]) for m in short["methods"]]
    for few, many in zip(short["rows"], long["rows"], strict=True):
        assert few["values"] == [many["values"][place] for place in places]


def test_table_3_has_the_averages_of_tables_12_to_16_but_for_two_exchanged():
    wrong = {}
    for place, number in enumerate(range(12, 17)):
        ours, theirs = column(3, place), averages(number)
        wrong |= {(number, m): (ours[m], theirs[m]) for m in ours if ours[m] != theirs[m]}
    assert wrong == {(12, "yarn"): (79.12, 50.18), (12, "clex"): (50.18, 79.12)}


def test_table_1_against_the_others():
    rows = {row["id"]: row["values"] for row in read_table(1)["rows"]}
    pg19 = {row["id"]: row["values"][4] for row in read_table(2)["parts"][0]["rows"]}
    ruler, longbench = column(3, 3), averages(11)
    assert all(rows[method][4] == ruler[method] for method in rows)
    assert all(rows[method][3] == longbench[method] for method in rows)
    wrong = {m: (rows[m][0], pg19[m]) for m in rows if rows[m][0] != pg19[m]}
    assert wrong == {"pi": (5.85, 5.95), "yarn": (5.85, 5.93)}


def test_scales_follow_the_rule_but_for_ntk_64k():
    """alpha = s L / C - (s - 1), floor at the trained length; 57 is not what s = 8 gives at 64k."""
    data = read_table(8)
    rows = {row["id"]: row["values"] for row in data["rows"]}
    lengths, window = data["columns"], data["window"]
    assert rows["ntk_frozen"] == [2 * n / window - 1 for n in lengths]
    assert rows["ntk_32k"] == [4 * max(n, 32768) / window - 3 for n in lengths]
    assert set(rows["ntk_64k"]) == {57.0}
    assert 8 * 65536 / window - 7 == 121


def test_every_printed_scale_of_table_9_is_in_the_paper_s_rule():
    for row in read_table(9)["rows"]:
        factor = {"ntk_frozen": 2, "ntk_32k": 4, "ntk_64k": 8}[row["id"]]
        assert row["alpha"] in [factor * 2**n - (factor - 1) for n in range(6)]


def test_the_readme_lists_every_file_s_misprints_and_gaps():
    """Each contradiction that a file notes between tables is in the README's list."""
    readme = (paper_folder() / "README.md").read_text(encoding="utf-8")
    assert "YaRN and CLEX exchanged at 4k" in readme
    assert "PI 5.85 against 5.95, YaRN 5.85 against 5.93" in readme
    assert [table["table"] for table in read_tables()] == list(range(1, 17))
    assert all(table["source"] for table in read_tables())
