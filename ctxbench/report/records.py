"""The samples of a cell, from the files lm-eval wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxbench.report.heatmap import task_family
from ctxbench.report.result_files import find_runs, read_samples
from ctxbench.report.study_plan import Column

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


def read_leaves(where: Path, column: Column) -> dict[str, tuple[Record, ...]]:
    """Return the samples by leaf task; none for a task of a group that has no file of samples.

    Raises:
        FileNotFoundError: there is no results file.
        ValueError: a file is damaged, or has no samples of the column's metric.
    """
    run = find_runs([where])[-1]
    leaves: dict[str, tuple[Record, ...]] = {}
    for task in sorted(_leaf_tasks(column.tasks, run.content)):
        file = run.samples.get(task)
        leaves[task] = tuple(_records(file, task, column)) if file else ()
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


def _records(path: Path, task: str, column: Column) -> list[Record]:
    found = []
    family = task_family(task)
    first_filter = None
    for sample in read_samples(path):
        first_filter = first_filter or sample.get("filter", "none")
        if sample.get("filter", "none") != first_filter or column.metric not in sample:
            continue
        found.append(_record(sample, family, column))
    if not found:
        raise ValueError(f"{path.name} has no sample with the metric {column.metric!r}.")
    return found


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
