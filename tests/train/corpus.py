"""A made corpus in SlimPajama's form, with Fu et al. 2024's median lengths of its sources."""

import json
import math
import random
from pathlib import Path

WORDS = """
    the of and a to in is was for on as with by that from at it an were are which this be has had
    its not also first one their after new who they two her she been other when there all during
    into school time may years more most only over city some world would where later up such used
    many can state about national out known university united then made
    """.split()  # noqa: SIM905  (reads better as words)

# tokens; Long-Context-Data-Engineering@0278752d utils.py MEDIUM_LENGTH
MEDIANS = {
    "RedPajamaC4": 315,
    "RedPajamaCommonCrawl": 1066,
    "RedPajamaStackExchange": 507,
    "RedPajamaWikipedia": 409,
    "RedPajamaGithub": 520,
    "RedPajamaArXiv": 14565,
    "RedPajamaBook": 121602,
}
DOCUMENTS = {
    "RedPajamaC4": 2600,
    "RedPajamaCommonCrawl": 1500,
    "RedPajamaStackExchange": 250,
    "RedPajamaWikipedia": 330,
    "RedPajamaGithub": 400,
    "RedPajamaArXiv": 6,
    "RedPajamaBook": 2,
}


def write_corpus(folder: Path, files: int = 3, seed: int = 0) -> list[Path]:
    """Write the documents, shuffled, into jsonl files; return these."""
    draw = random.Random(seed)
    base = " ".join(draw.choices(WORDS, k=300_000))
    records = []
    for name, count in DOCUMENTS.items():
        for _ in range(count):
            spread = 1.2 if MEDIANS[name] < 10_000 else 0.2
            characters = int(MEDIANS[name] * 3.68 * math.exp(draw.gauss(0, spread)))
            begin = draw.randrange(max(len(base) - characters, 1))
            text = base[begin : begin + max(characters, 1)]
            records.append({"text": text, "meta": {"redpajama_set_name": name}})
    draw.shuffle(records)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(files):
        paths.append(folder / f"part-{number}.jsonl")
        with open(paths[-1], "w", encoding="utf-8") as stream:
            for record in records[number::files]:
                stream.write(json.dumps(record) + "\n")
    return paths
