"""Text files name every damage with its line; intervals are Wilson's, by their own definition."""

import gzip
import json

import pytest

from ctxbench.core.intervals import high, low, wilson
from ctxbench.core.text_files import json_lines, json_objects, read_records, record_files, text_of

ROWS = [{"text": "a", "n": 1.5}, {"text": "é\u2028\x0c", "n": None}, {"text": ""}]
LINES = json_lines(ROWS)


def test_json_lines_are_those_of_the_standard_library():
    written = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    assert written.encode() == LINES
    assert [row for _, row in json_objects(LINES.split(b"\n"), "x")] == ROWS


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json.gz"])
def test_records_say_where_they_are(tmp_path, name):
    file = tmp_path / name
    content = b"\n" + LINES
    file.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    expected = [(f"{file} line {number}", row) for number, row in enumerate(ROWS, 2)]
    assert list(read_records(file, ["text"])) == expected


def test_parquet_and_text_too(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["a"] * 70, "b": [1] * 70}), tmp_path / "a.parquet")
    found = list(read_records(tmp_path / "a.parquet", ["text"]))
    assert found[-1] == (f"{tmp_path / 'a.parquet'} record 70", {"text": "a"})
    (where, record) = next(read_records(tmp_path / "a.parquet", ["body"]))
    with pytest.raises(ValueError, match=r"a.parquet record 1 has no 'body', only text, b\. Do it"):
        text_of(record, "body", where, "Do it.")
    (tmp_path / "a.txt").write_text("x\ny")
    assert list(read_records(tmp_path / "a.txt", ["t"])) == [
        (str(tmp_path / "a.txt"), {"t": "x\ny"})
    ]


@pytest.mark.parametrize("line", [b"{", b"[1]", b"null", b'{"a": "\xff"}', b"[" * 100_000])
def test_a_bad_line_is_named(line):
    rows = json_objects([b'{"a": 1}', b"  ", line], "a.jsonl", "Do it.")
    assert next(rows) == ("a.jsonl line 1", {"a": 1})
    with pytest.raises(ValueError, match=r"a.jsonl line 3 is not a JSON object .* Do it\."):
        next(rows)


@pytest.mark.parametrize("cut", [10, 60, 150])
def test_a_compressed_file_that_is_cut_is_no_shorter_file(tmp_path, cut):
    whole = gzip.compress(LINES * 1000, compresslevel=0)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) - cut])
    with pytest.raises(ValueError, match=r"a.jsonl.gz line \d+ is (damaged, cut short|not)"):
        list(read_records(tmp_path / "a.jsonl.gz", ["text"]))


def test_a_part_of_a_file_says_so(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(LINES + b"{")
    first = len(LINES.split(b"\n")[0]) + 1
    assert [row for _, row in read_records(file, ["text"], 0, first)] == ROWS[:1]
    with pytest.raises(ValueError, match=rf"a.jsonl after byte {first}, line 3 is not"):
        list(read_records(file, ["text"], first))


def test_a_folder_without_data(tmp_path):
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match=r"holds no data that can be read: known are .jsonl,"):
        record_files(tmp_path)


def test_the_interval_is_the_score_tests_inversion():
    # The ends are the shares p whose score statistic (mean - p) / sqrt(p (1 - p) / n) is +-1.96.
    for right, n in ((0, 5), (5, 5), (3, 10), (49, 50)):
        mean = right / n
        for end in wilson([1.0] * right + [0.0] * (n - right)):
            if 0 < end < 1:
                assert abs(mean - end) / (end * (1 - end) / n) ** 0.5 == pytest.approx(1.959964)


def test_ends():
    # n z^2 arithmetic by hand: 5 of 5 gives 5 / (5 + 3.8415)
    assert low([1.0] * 5) == pytest.approx(5 / (5 + 1.959964**2))
    assert high([1.0] * 5) == pytest.approx(1.0)
    assert low([0.0] * 5) == 0.0
