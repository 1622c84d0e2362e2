"""ROUGE-L as the `rouge` 1.0.1 package scores a summary, without its recursion.

LongBench scores summaries with that package, not with `rouge_score`: words are *sets* (a repeated
word counts once), a sentence ends at "." only, and the matches of all sentence pairs are united.
The package traces matches back by recursion and overflows the stack on an unpunctuated sentence of
about a thousand words, which LongBench's scorer turns into 0. Here the trace is a loop.

Source: https://github.com/pltrdy/rouge (version 1.0.1), ROUGE-L of Lin 2004
(https://aclanthology.org/W04-1013), summary level.
"""


def rouge_l(prediction: str, reference: str) -> float:
    """Return the F-measure of ROUGE-L, 0..1; 0 when either side has no sentence."""
    predicted, expected = _sentences(prediction), _sentences(reference)
    if not predicted or not expected:
        return 0.0
    matched: set[str] = set()
    for reference_words in expected:
        for predicted_words in predicted:
            matched |= _common_words(reference_words, predicted_words)
    recall = len(matched) / len(set().union(*expected))
    precision = len(matched) / len(set().union(*predicted))
    return 2 * precision * recall / (precision + recall + 1e-8)  # the package's own epsilon


def _sentences(text: str) -> list[list[str]]:
    """Split at full stops; an all-blank sentence is one empty word, as in the package."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _common_words(x: list[str], y: list[str]) -> set[str]:
    """Return the words of one longest common subsequence of `x` and `y`.

    There may be several; which one is found decides the union over sentences, so ties are broken
    as the package breaks them: shorten `y` unless shortening `x` keeps strictly more.
    """
    lengths = [[0] * (len(y) + 1)]
    for word in x:
        above, row = lengths[-1], [0]
        for j, other in enumerate(y):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        lengths.append(row)
    words: set[str] = set()
    i, j = len(x), len(y)
    while i and j:
        if x[i - 1] == y[j - 1]:
            words.add(x[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return words
