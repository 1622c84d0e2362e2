"""The samples of a cell, from the files lm-eval wrote."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ctxbench.core.errors import shown
from ctxbench.core.lengths import task_family
from ctxbench.core.protocol import Column
from ctxbench.core.samples import SampleFormat, declared_format
from ctxbench.report.old_samples import guess_format, scale_is_known
from ctxbench.report.result_files import Run

_ROUNDING = 1e-9  # beyond the ends of a scale


@dataclass(frozen=True)
class Sample:
    """One sample of one leaf task.

    Attributes:
        document: what was asked; equal in two rows if they were asked the same.
        unit: what is independent of other units: the document, its text, or the run of shots.
        total: of the score from 0 to 1, or of the negative log-likelihood in nats.
        weight: 1, or the number of scored tokens.
        length: of the prompt, tokens.
        depth: of the needle, 0 to 1.
        positions: (sum of NLL in nats, tokens) by bucket of positions, for Figure 3.
        bucket: positions in each of them.
    """

    document: str
    unit: str
    total: float
    weight: float
    length: int | None = None
    depth: float | None = None
    positions: tuple[tuple[float, float], ...] = ()
    bucket: int | None = None


def bucket_size(sample: Sample) -> int:
    """Return how many positions one of a sample's buckets holds: as noted, else equal parts."""
    return sample.bucket or -(-(sample.length or len(sample.positions)) // len(sample.positions))


@dataclass(frozen=True)
class TaskSamples:
    """A leaf task's samples; `scaled`: their scale is known, so that scores are from 0 to 1."""

    samples: tuple[Sample, ...] = ()
    scaled: bool = True

    def divided(self, by: float) -> "TaskSamples":
        """Return them with scores divided, if they are not scaled."""
        if self.scaled or by == 1:
            return self
        return TaskSamples(tuple(replace(s, total=s.total / by) for s in self.samples))


def read_leaves(run: Run, column: Column) -> dict[str, TaskSamples]:
    """Return the samples by leaf task; none for a task of a group that has no file of samples.

    Raises:
        ValueError: a file is damaged, or has no samples of the column's metric.
    """
    leaves: dict[str, TaskSamples] = {}
    for task in sorted(_leaf_tasks(column.tasks, run.content)):
        leaves[task] = TaskSamples()
        if task in run.samples:
            leaves[task] = read_samples(run, task, column.metric, column.kind)
            if not leaves[task].samples:
                raise ValueError(f"No sample of {task} has the metric {column.metric!r}.")
    if not any(found.samples for found in leaves.values()):
        raise ValueError(
            f"There are no samples of {', '.join(column.tasks)} beside {run.path.name}. Intervals "
            "and paired tests need them: run lm_eval with --log_samples."
        )
    return leaves


def _leaf_tasks(tasks: Sequence[str], content: dict[str, Any]) -> set[str]:
    """Return the leaf tasks of tasks and groups, at any depth."""
    subtasks = content.get("group_subtasks") or {}
    leaves, seen, todo = set(), set(), list(tasks)
    while todo:
        if (task := todo.pop()) not in seen:  # a group may be of two, or name itself
            seen.add(task)
            todo += subtasks.get(task) or ()
            leaves |= set() if subtasks.get(task) else {task}
    return leaves


def read_samples(
    run: Run, task: str, metric: str, kind: str = "", *, needle: bool = False
) -> TaskSamples:
    """Return a task's samples of a metric, of the filter after its comma, else of the first.

    Args:
        run: they are of.
        task: a leaf task.
        metric: of the samples; where it is null there is none.
        kind: of the column, "" where there is none.
        needle: whether only samples with a length and a depth are asked for.

    Raises:
        ValueError: a file is damaged, or samples are lost or out of their scale.
    """
    every = run.records(task)
    metric, _, chosen = metric.partition(",")
    if every and not chosen:
        chosen = every[0].get("filter", "none")
    first = [s for s in every if s.get("filter", "none") == chosen]
    if every and not first:
        filters = ", ".join(dict.fromkeys(s.get("filter", "none") for s in every))
        raise ValueError(f"No sample of {task} has the filter {chosen!r}. There are: {filters}.")
    asked = run.content["results"].get(task, {}).get("sample_len")
    if asked is not None and len(first) != asked:
        raise ValueError(f"{len(first)} of the {asked} samples of {task} are there.")
    scored = [s for s in first if metric in s.get("metrics", s)]
    if lacking := [str(sample["doc_id"]) for sample in scored if metric not in sample]:
        raise ValueError(f"Samples of {task} lack their {metric}: documents {', '.join(lacking)}.")
    given = [sample for sample in scored if sample[metric] is not None]
    if not given:
        return TaskSamples()
    declared = declared_format(run.content, task)
    form = declared or guess_format(task, kind, metric, given[0])
    if needle:
        given = [
            sample for sample in given if metric not in form.losses and _has_place(sample, form)
        ]
    scaled = declared is not None or metric in form.losses or scale_is_known(task)
    family = task_family(task)
    try:
        samples = [_sample(sample, metric, form, family) for sample in given]
    except (KeyError, IndexError, TypeError, ValueError) as damage:
        raise ValueError(
            f"A sample of {task} cannot be read as {form} ({type(damage).__name__}: {damage})."
        ) from damage
    if scaled and metric not in form.losses:
        samples = [_in_shares(sample, task, metric, form) for sample in samples]
    return TaskSamples(tuple(samples), scaled)


def _has_place(raw: dict[str, Any], form: SampleFormat) -> bool:
    """Return whether a sample has a length and a depth."""
    doc = raw.get("doc") or {}
    return all(name and doc.get(name) is not None for name in (form.length, form.depth))


def _sample(raw: dict[str, Any], metric: str, form: SampleFormat, family: str) -> Sample:
    """Return a sample, its score as it is."""
    doc, value = raw.get("doc") or {}, raw[metric]
    unit = raw["doc_id"] if form.unit is None else doc[form.unit]
    positions: tuple[tuple[float, float], ...] = ()
    how = form.losses.get(metric, "number")
    if how == "nats_tokens_by_position":
        positions = tuple((float(nats), float(tokens)) for nats, tokens in value)
        total, weight = (sum(part) for part in zip(*positions, strict=True))
    elif how == "loglikelihood_tokens":
        total, weight = -float(value[0]), float(value[1])
    elif how == "unit_nats_tokens":
        unit, total, weight = value[0], float(value[1]), float(value[2])
    elif isinstance(value, int | float):
        total, weight = float(value), 1.0
    else:
        raise ValueError(f"The {metric} of a sample of {family} is {value!r}, no number.")
    length, depth, bucket = (
        None if name is None else doc.get(name) for name in (form.length, form.depth, form.bucket)
    )
    for name, found in (("length", length), ("depth", depth), ("bucket", bucket)):
        if found is not None and not _is_number(found):
            raise ValueError(f"its {name} is {shown(found)}, no number")
    if not (math.isfinite(total) and math.isfinite(weight) and weight > 0):
        raise ValueError(f"its {metric} is {shown(value)}")
    document = f"{raw['doc_id']} {raw.get('doc_hash', '')}".strip()
    return Sample(document, f"{family} {unit}", total, weight, length, depth, positions, bucket)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value is not True


def _in_shares(sample: Sample, task: str, metric: str, form: SampleFormat) -> Sample:
    """Return a sample with its score from 0 to 1.

    Raises:
        ValueError: it is out of its scale.
    """
    scale = 100 if metric in form.percent else 1
    if not -_ROUNDING <= sample.total <= scale + _ROUNDING:
        raise ValueError(
            f"A sample of {task} has the {metric} {sample.total:g}, which is from 0 to {scale}."
        )
    return replace(sample, total=sample.total / scale)
