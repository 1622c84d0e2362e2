"""TREC question classification, in the shots and orders of Bertsch et al.

Data: Li & Roth 2002 (https://cogcomp.seas.upenn.edu/Data/QA/QC/), `train_5500.label` and
`TREC_10.label`. Selection: https://github.com/abertsch72/long-context-icl, of which everything that
is random can be drawn again: the training rows shuffled with seed 39; questions of more Llama
tokens than 99 % of them left out; 250 test questions and the orders of the shots drawn with
numpy's legacy generator. Runs are nested: fewer shots are the first ones of more.
"""

import hashlib
from functools import cache

import numpy as np

from ctxbench.core.assets import require_data

SEED = 43  # Bertsch et al.; another seed draws other orders, not other test questions
TEST_QUESTIONS = 250

COARSE = {
    "ABBR": "abbreviation",
    "ENTY": "entity",
    "DESC": "description",
    "HUM": "human",
    "LOC": "location",
    "NUM": "numeric",
}
_FINE = {
    "ABBR": {"abb": "abbreviation", "exp": "expansion"},
    "ENTY": {
        "animal": "animal",
        "body": "body",
        "color": "color",
        "cremat": "creation",
        "currency": "currency",
        "dismed": "disease",
        "event": "event",
        "food": "food",
        "instru": "instrument",
        "lang": "language",
        "letter": "letter",
        "other": "other",
        "plant": "plant",
        "product": "product",
        "religion": "religion",
        "sport": "sport",
        "substance": "substance",
        "symbol": "symbol",
        "techmeth": "technique",
        "termeq": "term",
        "veh": "vehicle",
        "word": "word",
    },
    "DESC": {
        "def": "definition",
        "desc": "description",
        "manner": "manner",
        "reason": "reason",
    },
    "HUM": {"gr": "group", "ind": "individual", "title": "title", "desc": "description"},
    "LOC": {
        "city": "city",
        "country": "country",
        "mount": "mountain",
        "other": "other",
        "state": "state",
    },
    "NUM": {
        "code": "code",
        "count": "count",
        "date": "date",
        "dist": "distance",
        "money": "money",
        "ord": "order",
        "other": "other",
        "period": "period",
        "perc": "percent",
        "speed": "speed",
        "temp": "temperature",
        "volsize": "size",
        "weight": "weight",
    },
}
FINE = {
    f"{coarse}:{fine}": f"{COARSE[coarse]} {word}"
    for coarse, words in _FINE.items()
    for fine, word in words.items()
}

# Lines (from 0) of the two files whose question has more Llama-2 tokens than the 99th percentile of
# its file (30 in training). Written down so that the choice is the same for every tokenizer.
LONG_TRAIN = (
    *(245, 286, 551, 600, 645, 694, 712, 737, 752, 853, 929, 950, 1120, 1215, 1797, 1891, 2022),
    *(2040, 2118, 2485, 2495, 2526, 2661, 2678, 2738, 2953, 3023, 3068, 3186, 3207, 3371, 3472),
    *(3557, 3601, 3730, 3764, 3883, 4019, 4261, 4306, 4434, 4443, 4534, 4563, 4800, 4806, 4817),
    4861,
)
LONG_TEST = (90, 131, 158, 200, 489)
# Other copies in circulation lack rows or apostrophes.
SHA256 = {
    "train_5500.label": "9e4c8bdcaffb96ed61041bd64b564183d52793a8e91d84fc3a8646885f466ec3",
    "TREC_10.label": "033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e",
}


def read_questions(name: str, data_dir: str | None = None) -> list[tuple[str, str]]:
    """Return (fine class code, question) of every line of one of the two files.

    Raises:
        FileNotFoundError: the file is not in the data folders.
        ValueError: its content is not the original's.
    """
    path = require_data(
        f"trec/{name}",
        name,
        data_dir=data_dir,
        get=f"Run `ctxbench data fetch trec`: {name} of TREC question classification "
        "(https://cogcomp.seas.upenn.edu/Data/QA/QC/).",
    )
    content = path.read_bytes().replace(b"\r\n", b"\n")
    if (digest := hashlib.sha256(content).hexdigest()) != SHA256[name]:
        raise ValueError(
            f"{name} has {content.count(bytes([10]))} lines and sha256 {digest}; the original has "
            f"sha256 {SHA256[name]}. Copies with missing rows or apostrophes are about: fetch it "
            "from https://cogcomp.seas.upenn.edu/Data/QA/QC/."
        )
    # One byte of the training file is not ASCII ("sister?city"); the data set on the hub, which
    # Bertsch et al. read, has a space there.
    lines = content.replace(b"\xf0", b" ").decode("ascii").splitlines()
    return [(code, question.strip()) for code, question in (line.split(" ", 1) for line in lines)]


@cache
def shot_lines(run: int, seed: int = SEED) -> tuple[int, ...]:
    """Return the lines of the training file in the order of a run's shots."""
    shuffled = np.random.default_rng(39).permutation(5452)
    usable = [line for line in shuffled.tolist() if line not in LONG_TRAIN]
    generator = np.random.RandomState(seed)
    for _ in range(run):
        generator.permutation(len(usable))
    return tuple(usable[i] for i in generator.permutation(len(usable)))


def asked_lines(count: int = TEST_QUESTIONS) -> list[int]:
    """Return the lines of the test file that are asked, in order."""
    usable = [line for line in range(500) if line not in LONG_TEST]
    chosen = np.random.RandomState(SEED).choice(len(usable), TEST_QUESTIONS, replace=False)
    return [usable[i] for i in chosen[:count]]


def label_of(code: str, granularity: str) -> str:
    """Return the label text of a class code, `coarse` or `fine`."""
    return COARSE[code.split(":")[0]] if granularity == "coarse" else FINE[code]
