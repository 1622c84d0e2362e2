"""The samples of a cell, from the files lm-eval wrote."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ctxbench.core.lengths import task_family
from ctxbench.core.protocol import Column
from ctxbench.report.result_files import Run

_RUN_KINDS = ("manyshot",)  # samples of one run share their shots: the run is the independent unit
_TEXT_KINDS = ("perplexity", "nll")  # windows of one text are not independent


@dataclass(frozen=True)
class Record:
    """One sample of one leaf task.

    Attributes:
        document: what was asked; equal in two rows if they were asked the same.
        unit: what is independent of other units: the document, its text, or the run of shots.
        total: of the score, or of the negative log-likelihood in nats.
        weight: 1, or the number of scored tokens.
        length: of the prompt as the task names it, tokens.
        depth: of the needle, 0 to 1.
        positions: (sum of NLL in nats, tokens) by bucket of positions, for Figure 3.
    """

    document: str
    unit: str
    total: float
    weight: float
    length: int | None = None
    depth: float | None = None
    positions: tuple[tuple[float, float], ...] = ()
    bucket: int | None = None


def bucket_size(record: Record) -> int:
    """Return how many positions one of a record's buckets holds: as noted, else equal parts."""
    return record.bucket or -(-(record.length or len(record.positions)) // len(record.positions))


def read_leaves(run: Run, column: Column) -> dict[str, tuple[Record, ...]]:
    """Return the samples by leaf task; none for a task of a group that has no file of samples.

    Raises:
        ValueError: a file is damaged, or has no samples of the column's metric.
    """
    leaves: dict[str, tuple[Record, ...]] = {}
    for task in sorted(_leaf_tasks(column.tasks, run.content)):
        samples = run.samples.get(task)
        asked = run.content["results"].get(task, {}).get("sample_len")
        leaves[task] = () if samples is None else tuple(_records(samples, task, column, asked))
    if not any(leaves.values()):
        raise ValueError(
            f"There are no samples of {', '.join(column.tasks)} beside {run.path.name}. Intervals "
            "and paired tests need them: run lm_eval with --log_samples."
        )
    return leaves


def _leaf_tasks(tasks: Sequence[str], content: dict[str, Any]) -> set[str]:
    """Return the leaf tasks of tasks and groups, at any depth."""
    subtasks = content.get("group_subtasks") or {}
    return {
        leaf
        for task in tasks
        for leaf in (_leaf_tasks(subtasks[task], content) if subtasks.get(task) else {task})
    }


def _records(
    samples: Iterable[dict[str, Any]], task: str, column: Column, asked: int | None
) -> list[Record]:
    """Return a task's records; `asked` is how many documents lm-eval scored, as far as it says."""
    family, metric = task_family(task), column.metric
    every = list(samples)
    first = [s for s in every if s.get("filter", "none") == every[0].get("filter", "none")]
    if asked is not None and len(first) != asked:
        raise ValueError(f"{len(first)} of the {asked} samples of {task} are there.")
    scored = [sample for sample in first if metric in sample.get("metrics", sample)]
    if not scored:
        raise ValueError(f"No sample of {task} has the metric {metric!r}.")
    if lacking := [str(sample["doc_id"]) for sample in scored if metric not in sample]:
        raise ValueError(f"Samples of {task} lack their {metric}: documents {', '.join(lacking)}.")
    return [_record(sample, family, column) for sample in scored]


def _record(sample: dict[str, Any], family: str, column: Column) -> Record:
    doc, value = sample.get("doc") or {}, sample[column.metric]
    document = f"{sample['doc_id']} {sample.get('doc_hash', '')}".strip()
    unit = f"{family} {sample['doc_id']}"
    if column.kind in _RUN_KINDS and "run" in doc:
        unit = f"{family} run {doc['run']}"
    if column.kind in _TEXT_KINDS and "module" in doc:
        unit = f"{family} {doc['module']}"
    positions: tuple[tuple[float, float], ...] = ()
    if isinstance(value, (int, float)):
        total, weight = float(value), 1.0
    elif value and isinstance(value[0], (list, tuple)):
        positions = tuple((float(nll), float(tokens)) for nll, tokens in value)
        total, weight = (sum(part) for part in zip(*positions, strict=True))
        unit = f"{family} {doc.get('document', sample['doc_id'])}"
    elif len(value) == 2:  # log-likelihood and tokens
        total, weight = -float(value[0]), float(value[1])
    else:  # document, negative log-likelihood, tokens
        unit, total, weight = f"{family} {value[0]}", float(value[1]), float(value[2])
    return Record(
        document,
        unit,
        total,
        weight,
        doc.get("length"),
        doc.get("depth"),
        positions,
        doc.get("bucket"),
    )
