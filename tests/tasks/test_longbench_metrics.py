"""LongBench's scorer against rows scored by the official code (golden/longbench/README.md)."""

import json

import pytest

from ctxbench.tasks.longbench import metrics

FILES = [
    "classification_score",
    "code_sim_score",
    "count_score",
    "qa_f1_score",
    "qa_f1_zh_score",
    "retrieval_score",
    "retrieval_zh_score",
    "rouge_score",
    "rouge_zh_score",
]


def rows(golden_dir, name):
    with open(golden_dir / "longbench" / f"{name}.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("name", FILES)
def test_every_golden_row(golden_dir, name):
    if "zh" in name:
        pytest.importorskip("jieba")
    wrong = []
    for row in rows(golden_dir, name):
        got = metrics.score(row["dataset"], row["pred"], row["answers"], row["all_classes"])
        if abs(got - row["score"]) > 1e-9:
            wrong.append((row["id"], got, row["score"]))
    assert not wrong


def test_sentences_too_long_for_the_recursive_rouge(golden_dir):
    """The row noted "recursion" is officially 0.0, a swallowed RecursionError; it must be right."""
    for row in rows(golden_dir, "rouge_recursion"):
        got = metrics.score(row["dataset"], row["pred"], row["answers"])
        # Identical texts: precision = recall = 1 and the package's epsilon, 2 / (2 + 1e-8).
        expected = 2 / (2 + 1e-8) if row["note"] == "recursion" else row["score"]
        assert got == pytest.approx(expected, abs=1e-9)


def test_the_paper_keeps_the_first_line_where_the_official_code_does_not():
    answer = "Paris\nQuestion: what is the capital of Spain? Madrid"
    assert metrics.score_lceg("hotpotqa", answer, ["Paris"]) == 1.0
    assert metrics.score("hotpotqa", answer, ["Paris"]) == pytest.approx(2 * (1 / 8) / (1 + 1 / 8))
    assert metrics.score("trec", "\nLocation\nType: Date", ["Location"], ["Location", "Date"]) == 1
    assert len(metrics.FIRST_LINE_LCEG) == 12


def test_the_e_data_sets_score_as_their_parents():
    assert metrics.score("qasper_e", "yes", ["yes"]) == 1.0


def test_unknown_data_set_names_the_near_ones():
    with pytest.raises(ValueError, match="hotpotqa"):
        metrics.score("hotpot", "x", ["x"])


def test_classes_are_required_where_they_are_used():
    with pytest.raises(ValueError, match="all_classes"):
        metrics.score("trec", "Location", ["Location"])


def test_an_answer_without_a_paragraph_number_is_refused():
    with pytest.raises(ValueError, match="Paragraph"):
        metrics.score("passage_retrieval_en", "3", ["three"])
