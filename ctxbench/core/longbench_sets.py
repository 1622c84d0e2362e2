"""LongBench's data sets and their six categories, for the tasks and the report.

Source: Bai et al. 2023, https://arxiv.org/abs/2308.14508, Table 1. Imports nothing.
"""

CATEGORIES = {
    "single": ("narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh"),
    "multi": ("hotpotqa", "2wikimqa", "musique", "dureader"),
    "summarization": ("gov_report", "qmsum", "multi_news", "vcsum"),
    "fewshot": ("trec", "triviaqa", "samsum", "lsht"),
    "synthetic": ("passage_count", "passage_retrieval_en", "passage_retrieval_zh"),
    "code": ("lcc", "repobench-p"),
}
LABELS = {
    "single": "Single-document QA",
    "multi": "Multi-document QA",
    "summarization": "Summarization",
    "fewshot": "Few-shot",
    "synthetic": "Synthetic",
    "code": "Code",
}
CHINESE = ("multifieldqa_zh", "dureader", "vcsum", "lsht", "passage_retrieval_zh")
ALL = tuple(name for names in CATEGORIES.values() for name in names)
"""The 21 data sets of LongBench."""
PAPER = tuple(name for name in ALL if name not in CHINESE)
"""The 16 of Lu et al. 2024, Table 11."""
E = tuple(name for name in PAPER if name not in ("narrativeqa", "musique", "qmsum"))
"""The 13 of LongBench-E, by the names of the whole sets."""
