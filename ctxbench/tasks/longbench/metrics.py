"""The scorer of LongBench: `score` as the official code, `score_lceg` as the paper's.

Official code: https://github.com/THUDM/LongBench, LongBench/metrics.py and eval.py.
The paper's code (https://github.com/Leooyii/LCEG, longbench/eval.py) differs in one thing: it keeps
only the first line of the answer for twelve data sets, the official code for four.
"""

import difflib
import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

from ctxbench.tasks.longbench.rouge import rouge_l

# ruff: noqa: RUF001 (full-width punctuation is what the Chinese normalisation is about)
# The Chinese punctuation that the official normalisation removes besides ASCII's.
_CHINESE_PUNCTUATION = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿"
    "–—‘’‛“”„‟…‧﹏."
)
_PUNCTUATION = frozenset(string.punctuation)
_PUNCTUATION_ZH = _PUNCTUATION | frozenset(_CHINESE_PUNCTUATION)


def score(
    dataset: str,
    prediction: str,
    answers: Sequence[str],
    all_classes: Sequence[str] | None = None,
) -> float:
    """Score one generation as the official code does.

    Args:
        dataset: a LongBench name; the `_e` of LongBench-E may be there or not.
        prediction: the generation as it came from the model.
        answers: the accepted answers; the best one counts.
        all_classes: the class names (`trec` and `lsht` only).

    Returns:
        0..1 (the published tables show 100 times the mean).

    Raises:
        ValueError: unknown data set, or classes missing where the metric needs them.
    """
    return _score(dataset, prediction, answers, all_classes, FIRST_LINE_OFFICIAL)


def score_lceg(
    dataset: str,
    prediction: str,
    answers: Sequence[str],
    all_classes: Sequence[str] | None = None,
) -> float:
    """Score one generation as the paper's code does; arguments and result as for `score`."""
    return _score(dataset, prediction, answers, all_classes, FIRST_LINE_LCEG)


def check_packages(dataset: str) -> None:
    """Import what the metric of a data set needs.

    Raises:
        ImportError: it is not installed.
    """
    if METRICS[dataset.removesuffix("_e")] in (qa_f1_zh, rouge_zh):
        _jieba()


def check_row(dataset: str, row: dict, where: str, advice: str) -> None:
    """Refuse a row that its metric could not score, or would always score 0.

    Args:
        dataset: a LongBench name, with `_e` or without.
        row: answers are texts already.
        where: the row is, for the message.
        advice: what to do.

    Raises:
        ValueError: naming the column, what it holds and what it must hold.
    """
    metric = METRICS[dataset.removesuffix("_e")]
    wrong: dict[str, str] = {}
    if type(row["length"]) is not int or row["length"] < 0:
        wrong["length"] = "the words of the text, a whole number"
    if metric is classification and not _is_texts(row["all_classes"]):
        wrong["all_classes"] = "a list of class names"
    if metric in ANSWER_FORMS:
        pattern, form = ANSWER_FORMS[metric]
        if not all(re.search(pattern, answer) for answer in row["answers"]):
            wrong["answers"] = f"texts of the form {form}"
    for column, allowed in wrong.items():
        raise ValueError(
            f"{where}: {column} is {row[column]!r}, but {dataset} is scored by it and it must be "
            f"{allowed}. {advice}"
        )


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def _score(
    dataset: str,
    prediction: str,
    answers: Sequence[str],
    all_classes: Sequence[str] | None,
    first_line: frozenset[str],
) -> float:
    name = dataset.removesuffix("_e")
    metric = METRICS.get(name)
    if metric is None:
        near = difflib.get_close_matches(name, METRICS, 3) or sorted(METRICS)
        raise ValueError(
            f"LongBench data set {dataset!r} is unknown; near names: {', '.join(near)}. "
            "Give one of the 21 names, with or without '_e'."
        )
    if name in first_line:
        prediction = prediction.lstrip("\n").split("\n")[0]
    if metric is classification:
        if not all_classes:
            raise ValueError(
                f"LongBench data set {dataset!r} is scored by class name and no classes were "
                "given; its rows have them in column 'all_classes'. Pass that column."
            )
        return max((classification(prediction, a, all_classes) for a in answers), default=0.0)
    return max((metric(prediction, answer) for answer in answers), default=0.0)


def qa_f1(prediction: str, answer: str) -> float:
    """F1 over the words of both, without case, punctuation and articles."""
    return _f1(_normalise(prediction).split(), _normalise(answer).split())


def qa_f1_zh(prediction: str, answer: str) -> float:
    """F1 over the words that jieba cuts, without punctuation."""
    return _f1(_words_zh(prediction), _words_zh(answer))


def rouge_zh(prediction: str, answer: str) -> float:
    """ROUGE-L over the words that jieba cuts."""
    return rouge_l(" ".join(_cut(prediction)), " ".join(_cut(answer)))


def classification(prediction: str, answer: str, all_classes: Sequence[str]) -> float:
    """1 / number of classes named in the prediction, if the right one is among them."""
    named = [label for label in all_classes if label in prediction]
    # A class whose name is part of the answer's ("Animal" in "Animal organ") is no wrong guess.
    # The official loop removes from the list it walks and so passes over the next item; published
    # scores have that in them, so it stays.
    for label in named:
        if label in answer and label != answer:
            named.remove(label)
    return 1 / len(named) if answer in named else 0.0


def count(prediction: str, answer: str) -> float:
    """Share of the numbers in the prediction that are the right one."""
    return _share(re.findall(r"\d+", prediction), str(answer))


def retrieval(prediction: str, answer: str) -> float:
    """Share of the numbers in the prediction that are the right paragraph's."""
    return _share(re.findall(r"\d+", prediction), _paragraph(retrieval, answer))


def retrieval_zh(prediction: str, answer: str) -> float:
    """`retrieval` for answers of the form 段落N."""
    return _share(re.findall(r"\d+", prediction), _paragraph(retrieval_zh, answer))


def code_similarity(prediction: str, answer: str) -> float:
    """Similarity, in whole percents, of the first line that is code and the answer.

    The official requirements name fuzzywuzzy alone, whose ratio is difflib's. With the optional
    python-Levenshtein installed it is another formula, which scores real code lines about 2.6
    points higher: not what is computed here.
    """
    lines = prediction.lstrip("\n").split("\n")
    line = next((x for x in lines if not any(mark in x for mark in ("`", "#", "//"))), "")
    return round(100 * difflib.SequenceMatcher(None, line, answer).ratio()) / 100


METRICS: dict[str, Callable[..., float]] = {
    "narrativeqa": qa_f1,
    "qasper": qa_f1,
    "multifieldqa_en": qa_f1,
    "multifieldqa_zh": qa_f1_zh,
    "hotpotqa": qa_f1,
    "2wikimqa": qa_f1,
    "musique": qa_f1,
    "dureader": rouge_zh,
    "gov_report": rouge_l,
    "qmsum": rouge_l,
    "multi_news": rouge_l,
    "vcsum": rouge_zh,
    "trec": classification,
    "triviaqa": qa_f1,
    "samsum": rouge_l,
    "lsht": classification,
    "passage_count": count,
    "passage_retrieval_en": retrieval,
    "passage_retrieval_zh": retrieval_zh,
    "lcc": code_similarity,
    "repobench-p": code_similarity,
}
ANSWER_FORMS: dict[Callable[..., float], tuple[str, str]] = {
    count: (r"^\d+$", "12"),
    retrieval: (r"Paragraph (\d+)", "Paragraph 12"),
    retrieval_zh: (r"段落(\d+)", "段落12"),
}
FIRST_LINE_OFFICIAL = frozenset({"trec", "triviaqa", "samsum", "lsht"})
FIRST_LINE_LCEG = FIRST_LINE_OFFICIAL | {
    "narrativeqa",
    "qasper",
    "multifieldqa_en",
    "hotpotqa",
    "2wikimqa",
    "musique",
    "passage_count",
    "passage_retrieval_en",
}


def _share(numbers: list[str], right: str) -> float:
    return numbers.count(right) / len(numbers) if numbers else 0.0


def _paragraph(metric: Callable[..., float], answer: str) -> str:
    pattern, _ = ANSWER_FORMS[metric]
    found = re.search(pattern, answer)
    if not found:
        raise ValueError(
            f"LongBench answer {answer!r} names no paragraph; expected the form {pattern!r}. "
            "Check column 'answers' of the data file."
        )
    return found.group(1)


def _f1(predicted: list[str], expected: list[str]) -> float:
    common = sum((Counter(predicted) & Counter(expected)).values())
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def _normalise(text: str) -> str:
    text = "".join(c for c in text.lower() if c not in _PUNCTUATION)
    return re.sub(r"\b(a|an|the)\b", " ", text)


def _words_zh(text: str) -> list[str]:
    kept = ("".join(c for c in w.lower() if c not in _PUNCTUATION_ZH) for w in _cut(text))
    words = ("".join(word.split()) for word in kept)
    return [word for word in words if word]


def _cut(text: str) -> list[str]:
    """Cut Chinese text into words with jieba (its dictionary decides, hence the pinned version)."""
    return list(_jieba().cut(text, cut_all=False))


def _jieba():
    try:
        with warnings.catch_warnings():  # jieba 0.42.1 imports the deprecated pkg_resources
            warnings.simplefilter("ignore")
            import jieba
    except ImportError as error:
        raise ImportError(
            "The Chinese LongBench data sets are scored by words that jieba 0.42.1 cuts, and jieba "
            "is not installed. Install it with: pip install 'ctxbench[chinese]'"
        ) from error
    jieba.setLogLevel("WARNING")  # it prints its dictionary's load time at import level
    return jieba
