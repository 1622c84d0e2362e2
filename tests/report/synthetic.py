"""Small study folders with all of a study's cells, in the files lm-eval writes.

Scores are drawn from a simple picture of each method: how well it does within what it can hold,
and how it fails beyond. Nothing in a test depends on the picture being right.
"""

import json
import math
import random
from pathlib import Path

DATE = "2026-01-01T00-00-00.000000"
SUBTASKS = (
    *("niah_single_1", "niah_single_2", "niah_single_3"),
    *("niah_multikey_1", "niah_multikey_2", "niah_multikey_3", "niah_multivalue"),
    *("niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2"),
)
LONGBENCH = (
    *("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique"),
    *("gov_report", "qmsum", "multi_news", "trec", "triviaqa", "samsum", "passage_count"),
    *("passage_retrieval_en", "lcc", "repobench-p"),
)
CHINESE = ("multifieldqa_zh", "dureader", "vcsum", "lsht", "passage_retrieval_zh")
NOT_IN_E = ("narrativeqa", "musique", "qmsum")


def row(name, label, group, method, trained_length=None, seeds=(0, 1), own=None, **options):
    return {
        "name": name,
        "label": label,
        "class": group,
        "method": method,
        "options": options,
        "trained": trained_length is not None,
        "trained_length": trained_length,
        "recipe": "common" if trained_length else None,
        "own_budget": own,
        "seeds": list(seeds) if trained_length else [None],
    }


def column(name, kind, task, metric="score", length=None, shots=None, higher=True, chance=None):
    return {
        "name": name,
        "kind": kind,
        "length": length,
        "shots": shots,
        "tasks": [task],
        "metric": metric,
        "higher_is_better": higher,
        "chance": chance,
    }


def k(length):
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)


def rows(window, seeds=(0, 1)):
    """The rows of the paper's tables, for a window."""
    long, longer = 8 * window, 16 * window
    common = {"seeds": seeds}
    return [
        row("base", "Base", "frozen", "none"),
        row("ntk_frozen", "NTK-Frozen", "frozen", "dynamic_ntk", factor=2.0),
        row("pi", "PI", "exact", "pi", long, **common, factor=8.0),
        row("yarn", "YaRN", "exact", "yarn", long, **common, factor=8.0),
        row("clex", "CLEX", "exact", "clex", long, **common),
        row("ntk_8x", "NTK-8x", "exact", "dynamic_ntk", long, **common, factor=4.0, floor=long),
        row(
            "ntk_16x", "NTK-16x", "exact", "dynamic_ntk", longer, **common, factor=8.0, floor=longer
        ),
        row("lm_infinite", "LM-Infinite", "approximate", "lm_infinite"),
        row("self_extend", "Self-Extend", "approximate", "self_extend"),
        row("longlora", "LongLoRA", "approximate", "longlora", long, **common, factor=8.0),
        row("landmark", "Landmark", "approximate", "landmark", long, **common),
        row("control", "No change", "control", "none", long, **common),
    ]


def plan(columns, window, model, seeds=(0, 1), **more):
    return {
        "name": "synthetic",
        "title": "A synthetic study",
        "model": model,
        "model_name": model,
        "window": window,
        "length": 16 * window,
        "budget": {
            "name": "common",
            "tokens": 655360,
            "length": 8 * window,
            "batch_size": 4,
            "lr": 0.004,
        },
        "seeds": list(seeds),
        "notes": ["Made up: drawn numbers in the files of a study."],
        "rows": rows(window, seeds),
        "columns": columns,
        **more,
    }


def paper_plan(window=4096, lengths=(2048, 4096, 8192, 16384, 32768, 65536), **more):
    """All the paper's cells: two perplexities, needle, many-shot, LongBench, RULER, losses."""
    columns = [
        *(
            column(f"pg19_{k(n)}", "perplexity", f"pg19_ppl_{k(n)}", "ppl_overlap", n, higher=False)
            for n in lengths
        ),
        *(
            column(
                f"proof_{k(n)}",
                "perplexity",
                f"proof_pile_ppl_{k(n)}",
                "ppl_overlap",
                n,
                higher=False,
            )
            for n in lengths
        ),
        *(column(f"niah_{k(n)}", "needle", f"niah_{k(n)}", length=n) for n in lengths),
        *(
            column(
                f"trec_{s}",
                "manyshot",
                f"trec_fine_{s}shot",
                "acc",
                max(lengths) // 2,
                s,
                chance=0.02,
            )
            for s in (1, 10, 50, 100, 1000)
        ),
        column("longbench", "longbench", "longbench_32k", length=max(lengths) // 2),
        *(column(f"ruler_{k(n)}", "ruler", f"ruler_{k(n)}", length=n) for n in lengths[1:]),
        column(
            "nll",
            "nll",
            f"pg19_ppl_{k(max(lengths))}",
            "nll_by_position",
            max(lengths),
            higher=False,
        ),
    ]
    return plan(columns, window, "synthetic-7b", **more)


def mini_plan(window=256, lengths=(128, 256, 512, 1024, 2048, 4096), **more):
    """The columns of the miniature."""
    columns = [
        *(
            column(f"ppl_{k(n)}", "perplexity", f"mini_ppl_{k(n)}", "perplexity", n, higher=False)
            for n in lengths
        ),
        *(column(f"needle_{k(n)}", "needle", f"mini_needle_{k(n)}", length=n) for n in lengths),
        *(
            column(f"multiquery_{k(n)}", "multiquery", f"mini_multiquery_{k(n)}", length=n)
            for n in lengths[1:]
        ),
        *(
            column(
                f"manyshot_{s}", "manyshot", f"mini_manyshot_{s}shot", "acc", 1024, s, chance=0.125
            )
            for s in (4, 8, 16, 32, 64, 128)
        ),
        column("nll", "nll", "text_ppl_4k", "nll_by_position", 4096, higher=False),
    ]
    return plan(columns, window, "synthetic-mini", **more)


# ------------------------------------------------------------- what a row can do


def quality(row, length, window):
    """How well a row does at a length, 0 to 1."""
    times = length / window
    trained = (row["trained_length"] or window) / window
    if row["method"] == "none":
        return 0.97 if times <= 1 else (0.2 if times <= 2 else 0.0)
    if row["method"] == "dynamic_ntk" and not row["trained"]:
        return 0.97 if times <= 2 else max(0.9 - 0.12 * math.log2(times), 0)
    if row["method"] in ("lm_infinite", "streaming_llm"):
        return 0.97 if times <= 1 else 0.9 / times
    if row["method"] == "self_extend":
        return 0.9 / max(1, times / 8)
    if row["method"] in ("dynamic_ntk", "clex"):
        return 0.96 if times <= 2 * trained else 0.5
    if row["method"] in ("longlora", "landmark"):
        return 0.3
    return 0.95 if times <= trained else 0.08


def loss(row, length, window):
    """The mean loss of a row at a length, nats."""
    if row["method"] in ("lm_infinite", "streaming_llm", "self_extend"):
        return 2.6
    missing = 1 - quality(row, length, window)
    return 2.55 - 0.02 * math.log2(max(length / window, 1)) + 1.6 * missing


# ------------------------------------------------------------------------ files


def write_study(folder: Path, plan: dict, samples=20, failed=(), missing=(), compact=True) -> Path:
    """Write a study folder; `failed` and `missing` name (row, column) or (row, seed, column)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(plan, indent=1))
    for row in plan["rows"]:
        for seed in row["seeds"]:
            for column in plan["columns"]:
                names = {(row["name"], column["name"]), (row["name"], seed, column["name"])}
                if names & set(missing):
                    continue
                where = folder / "cells" / row["name"] / _seed(seed) / column["name"]
                where.mkdir(parents=True, exist_ok=True)
                bad = bool(names & set(failed))
                note = {
                    "row": row["name"],
                    "seed": seed,
                    "column": column["name"],
                    "status": "failed" if bad else "done",
                    "reason": "out of memory: 3 GB asked, 2 GB there" if bad else None,
                    "command": command(plan, row, column, seed),
                    "seconds": 1.5,
                }
                (where / "cell.json").write_text(json.dumps(note))
                if not bad:
                    write_cell(where, plan, row, seed, column, samples)
    return folder


def command(plan, row, column, seed):
    model = plan["model"] if seed is None else f"train/{row['name']}/seed-{seed}"
    return (
        f"lm_eval --model ctxext --model_args pretrained={model},method={row['method']},length="
        f"{column['length'] or ''} --tasks {','.join(column['tasks'])} --log_samples"
    )


def _seed(seed):
    return f"seed-{'none' if seed is None else seed}"


def leaves_of(column):
    task = column["tasks"][0]
    if column["kind"] == "ruler":
        return [f"{task}_{subtask}" for subtask in SUBTASKS]
    if column["kind"] == "longbench":
        family, _, length = task.rpartition("_")
        names = LONGBENCH + CHINESE if family == "longbench21" else LONGBENCH
        if family == "longbench_e":
            names = [f"{name}_e" for name in LONGBENCH if name not in NOT_IN_E]
        return [f"longbench_{length}_{name}" for name in names]
    return [task]


def write_cell(where, plan, row, seed, column, samples):
    leaves = leaves_of(column)
    group = column["tasks"][0]
    content = {
        "results": {leaf: {"alias": leaf} for leaf in leaves},
        "group_subtasks": {group: leaves} if leaves != [group] else {},
        "config": {
            "model": "ctxext",
            "model_args": {"pretrained": plan["model"], "method": row["method"]},
            "ctxbench": {
                "method": row["method"],
                "options": row["options"],
                "original_length": plan["window"],
                "trained_length": row["trained_length"],
            },
        },
        "model_name": plan["model"],
    }
    (where / f"results_{DATE}.json").write_text(json.dumps(content))
    for leaf in leaves:
        records = [sample(plan, row, seed, column, leaf, n) for n in range(samples)]
        text = "".join(json.dumps(record) + "\n" for record in records)
        (where / f"samples_{leaf}_{DATE}.jsonl").write_text(text)


def sample(plan, row, seed, column, leaf, number):
    """One line of a samples file: the same documents in every row."""
    document = random.Random(f"{leaf} {number}")
    rng = random.Random(f"{leaf} {number} {row['name']} {seed}")
    hardness, window = document.random(), plan["window"]
    length = column["length"] or plan["budget"]["length"]
    doc = {"length": column["length"]}
    good = quality(row, length, window)
    right = float(0.8 * hardness + 0.2 * rng.random() < good)
    if column["kind"] == "nll":
        buckets = 16
        size = length // buckets
        value = [
            [size * (loss(row, (b + 1) * size, window) + 0.1 * hardness), size]
            for b in range(buckets)
        ]
        doc |= {"bucket": size, "document": number % 5}
    elif column["metric"] == "perplexity":
        nll = loss(row, length, window) + 0.3 * (hardness - 0.5) + 0.02 * rng.gauss(0, 1)
        value = [-64 * nll, 64]
        doc |= {"module": f"m{number % 24}.py", "target_tokens": 64}
    elif column["kind"] == "perplexity":
        nll = loss(row, length, window) + 0.3 * (hardness - 0.5) + 0.02 * rng.gauss(0, 1)
        value = [number % 10, 512 * nll, 512]
    elif column["kind"] == "manyshot":
        share = good * (1 - math.exp(-column["shots"] / 60))
        value = float(0.8 * hardness + 0.2 * rng.random() < max(share, column["chance"]))
        doc |= {"run": number % 5}
    elif column["kind"] in ("ruler", "longbench"):
        value = 100 * right
    else:
        value = right
        doc |= {"depth": (number % 10 + 0.5) / 10}
    return {
        "doc_id": number,
        "doc": doc,
        "filter": "none",
        "metrics": [column["metric"]],
        "doc_hash": f"hash of {leaf} {number}",
        column["metric"]: value,
    }
