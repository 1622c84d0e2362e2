"""What a study will cost, from the model's shape alone, and what it lacks here.

Operations are those of `core.cost`. Generated tokens are counted as read ones.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ctxbench.core.assets import BUNDLED_MODELS, find_data, resolve_model
from ctxbench.core.cost import (
    ASSUMED_MFU,
    CORE_GIGAFLOPS,
    CPU_CORE,
    GIB,
    Device,
    Shape,
    gpu_device,
)
from ctxbench.core.own_window import OwnWindow, own_window
from ctxbench.core.protocol import Row
from ctxbench.core.refused import readable_config
from ctxbench.study.config import Study, untrained
from ctxbench.study.fitting import reading_memory, training_warning, usable
from ctxbench.train.config import TrainConfig, as_dict, make_config
from ctxbench.train.cost import TrainingCost, training_cost


@dataclass(frozen=True)
class RowCost:
    """A training, or the measurement of one kind of column, of one row.

    Attributes:
        row: its label.
        what: `train`, or the kind of column.
        times: seeds.
        tokens: trained or read, per seed.
        flops: per seed.
        memory: bytes of each device of a command, at once.
        warning: why it does not fit a device and what would; empty where it fits.
    """

    row: str
    what: str
    times: int
    tokens: float
    flops: float
    memory: float = 0.0
    warning: str = ""


@dataclass(frozen=True)
class StudyCost:
    """A study's cost.

    Attributes:
        study: it is of.
        device: assumed.
        parts: in the order of the rows.
        uncounted: columns whose tasks no column says a number of requests of.
        missing: what is not here, as lines.
        window: sliding window of the model's own, if it has one.
    """

    study: Study
    device: Device
    parts: tuple[RowCost, ...]
    uncounted: tuple[str, ...]
    missing: tuple[str, ...]
    window: OwnWindow | None = None

    def of(self, what: str) -> list[RowCost]:
        """Return the parts of one kind: `train` or a kind of column."""
        return [part for part in self.parts if part.what == what]

    def hours(self, *, training: bool) -> float:
        """Return device hours of the trainings, or of the measurements."""
        parts = [part for part in self.parts if (part.what == "train") == training]
        return self.device.seconds(sum(part.flops * part.times for part in parts)) / 3600


def study_cost(study: Study, *, gpu: str = "A100", mfu: float = ASSUMED_MFU) -> StudyCost:
    """Return what a study will cost.

    Args:
        study: to estimate.
        gpu: a key of `GPUS`; not used for a bundled model, which runs on CPU cores.
        mfu: share of the peak that is reached.

    Raises:
        ValueError: an unknown GPU; the model is neither here nor described by `shape`.
    """
    device = gpu_device(gpu, mfu)
    if study.model in BUNDLED_MODELS:
        device = CPU_CORE
    with _model(study) as model:
        costs = _Costs(model)
        parts = [part for row in study.rows for part in _parts(study, row, costs, device)]
        window = _own_window(model)
    counted = {column.tasks for column in study.columns if column.requests}
    uncounted = tuple(column.name for column in study.columns if column.tasks not in counted)
    return StudyCost(study, device, tuple(parts), uncounted, tuple(_missing(study)), window)


def describe_cost(cost: StudyCost, *, gpus: int, price: float | None) -> list[str]:
    """Return the cost as lines of text."""
    study = cost.study
    number = sum(len(study.columns_of(row)) * len(row.seeds) for row in study.rows)
    trained = sum(part.tokens * part.times for part in cost.parts if part.what == "train")
    read = sum(part.tokens * part.times for part in cost.parts if part.what != "train")
    lines = [
        f"{study.name}: {study.title}",
        f"{len(study.rows)} rows x {len(study.columns)} columns, {number} cells",
        f"{trained:.4g} tokens to train, {read:.4g} tokens to read",
        "",
        f"{'training'.ljust(24)}{'times'.rjust(6)}{'tokens'.rjust(11)}"
        f"{'GFLOP/token'.rjust(13)}{_unit(cost).rjust(16)}{'GiB'.rjust(8)}",
    ]
    for part in cost.of("train"):
        memory = f"{part.memory / GIB:.1f}".rjust(8)
        lines.append(f"{part.row.ljust(24)}{_figures(cost, [part])}{memory}")
    lines += ["", "measuring, all rows"]
    for what in dict.fromkeys(part.what for part in cost.parts if part.what != "train"):
        lines.append(f"{what.ljust(24)}{_figures(cost, cost.of(what))}")
    lines += ["", *_totals(cost, gpus, price), *_warnings(cost, gpus), "", "Missing here:"]
    return lines + [f"  {line}" for line in cost.missing or ("nothing",)]


def _figures(cost: StudyCost, parts: Sequence[RowCost]) -> str:
    """Return times, tokens, operations per token and device time of some parts."""
    tokens = sum(part.tokens * part.times for part in parts)
    flops = sum(part.flops * part.times for part in parts)
    time = cost.device.seconds(flops) / (60 if cost.device is CPU_CORE else 3600)
    times = sum(part.times for part in parts)
    return f"{times:>6}{tokens:>11.3g}{flops / tokens / 1e9:>13.3g}{time:>16.3g}"


def _totals(cost: StudyCost, gpus: int, price: float | None) -> list[str]:
    training, measuring = cost.hours(training=True), cost.hours(training=False)
    total = training + measuring
    if cost.device is CPU_CORE:
        return [
            f"About {60 * training:.0f} core-minutes of training and {60 * measuring:.0f} of "
            f"measuring at an assumed {CORE_GIGAFLOPS} GFLOP/s a core, without start-up."
        ]
    lines = [
        f"About {training:.0f} {_unit(cost)} of training and {measuring:.0f} of measuring at "
        f"{cost.device.flops / 1e12:.0f} TFLOP/s a GPU: {total / gpus:.0f} hours on {gpus}."
    ]
    said = "Give --price for the cost." if price is None else f"Cost: {total * price:,.0f}"
    return [*lines, said if price is None else f"{said} at {price:g} a GPU hour."]


def _warnings(cost: StudyCost, gpus: int) -> list[str]:
    """Return what does not fit, row by row, and what is not counted."""
    lines = [f"  {part.row}, {part.what}: {part.warning}" for part in cost.parts if part.warning]
    if cost.device is not CPU_CORE:
        lines += [
            f"  {row.label}, train: runs on {number} GPUs, and --gpus is {gpus}. Other numbers are "
            "processes and shard under its `train`."
            for row in cost.study.rows
            if (number := cost.study.processes(row)) > gpus
        ]
    found = ["", "Does not fit:", *lines] if lines else []
    found += ["", *said] if (said := untrained(cost.study)) else []
    longest = max((column.length or 0 for column in cost.study.columns), default=0)
    if cost.window and cost.window.tokens < longest:
        found += [
            "",
            f"sliding_window={cost.window.tokens}: in {cost.window.where} of this model a token "
            f"sees the last {cost.window.tokens} tokens only, at {longest} tokens as before.",
        ]
    if cost.uncounted:
        names = ", ".join(cost.uncounted)
        found += ["", f"Not counted, for want of `requests` in the study file: {names}."]
    return found


def _unit(cost: StudyCost) -> str:
    return "core-minutes" if cost.device is CPU_CORE else f"{cost.device.name} hours"


# ----------------------------------------------------------------------- parts


class _Costs:
    """Costs of one model, each found once."""

    def __init__(self, model: str):
        self.model = model
        self._known: dict[str, TrainingCost] = {}

    def of(self, config: TrainConfig) -> TrainingCost:
        key = json.dumps(as_dict(config), sort_keys=True)
        if key not in self._known:
            self._known[key] = training_cost(config)
        return self._known[key]

    def read(self, length: int) -> float:
        """Return operations per token of reading prompts of a length."""
        return self.shape().forward_flops(length)

    def shape(self) -> Shape:
        """Return the model's shape."""
        values = {"model": self.model, "data": ["x"], "output": "x", "length": 1024}
        return self.of(make_config(None, values)).shape


def _parts(study: Study, row: Row, costs: _Costs, device: Device) -> Iterator[RowCost]:
    seeds = row.seeds
    if row.train is not None:
        config = study.training(row, seeds[0] or 0, "x")
        config = dataclasses.replace(config, model=costs.model)
        cost = costs.of(config)
        tokens = config.steps * config.tokens_per_step
        memory = sum(cost.memory.values())
        warning = training_warning(config, cost.shape, device)
        yield RowCost(row.label, "train", len(seeds), tokens, tokens * cost.flops, memory, warning)
    for kind in dict.fromkeys(column.kind for column in study.columns_of(row)):
        tokens = flops = memory = 0.0
        seen = set()
        for column in study.columns_of(row):
            if column.kind != kind or column.tasks in seen:
                continue
            seen.add(column.tasks)
            length = column.length or study.length
            tokens += column.requests * length
            flops += column.requests * length * costs.read(length)
            memory = max(memory, reading_memory(costs.shape(), length, _itemsize(study)))
        if tokens:
            warning = _reading_warning(memory, device)
            yield RowCost(row.label, kind, len(seeds), tokens, flops, memory, warning)


def _reading_warning(memory: float, device: Device) -> str:
    """Return that a longest prompt does not fit; empty where it does."""
    if memory <= usable(device):
        return ""
    return (
        f"its longest prompt needs {memory / GIB:.0f} GiB, one {device.name} has "
        f"{usable(device) / GIB:.0f}. Fits: shorter lengths, a GPU with more, or tp_plan: auto in "
        "model_args over several."
    )


def _itemsize(study: Study) -> int:
    """Return the bytes of a weight at evaluation: as model_args say, else of a 16-bit model."""
    return 4 if "32" in str(study.model_args.get("dtype", "bfloat16")) else 2


@contextmanager
def _model(study: Study) -> Iterator[str]:
    """Give a model whose config can be read: the study's, or a folder made of its `shape`."""
    if study.model in BUNDLED_MODELS or Path(study.model).is_dir() or not study.shape:
        yield study.model
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(study.shape), encoding="utf-8")
        yield folder


def _own_window(model: str) -> OwnWindow | None:
    """Return the sliding window that a model's config names."""
    from transformers import AutoConfig

    path = resolve_model(model)
    config = readable_config(path) or AutoConfig.from_pretrained(path)
    return own_window(config.get_text_config())


# --------------------------------------------------------------------- missing


def _missing(study: Study) -> Iterator[str]:
    """Yield what is not on this machine."""
    models = [study.model, *(row.checkpoint for row in study.rows if row.checkpoint)]
    for model in dict.fromkeys(models):
        if not _is_here(model):
            yield f"model {model}: not in the hub's cache; it is downloaded at first use"
    for row in study.rows:
        if row.train is not None:
            yield from _missing_data(study.training(row, 0, "x"))
            break
    for needs in dict.fromkeys(column.needs for column in study.columns if column.needs):
        if find_data(*needs) is None:
            yield f"data {' or '.join(needs)}: not in CTXBENCH_DATA (ctxbench data fetch)"
    if study.model not in BUNDLED_MODELS:
        import torch

        if not torch.cuda.is_available():
            yield "a GPU"


def _missing_data(config: TrainConfig) -> Iterator[str]:
    for source in config.data:
        path = source.split(":")[0].split("@")[0]
        if path != "stdlib" and not Path(path).exists():
            yield f"training data {path}: no such file or folder here (--data)"


def _is_here(model: str) -> bool:
    if model in BUNDLED_MODELS or Path(model).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(model, "config.json"), str | os.PathLike)
    except ValueError:  # not the form of a hub id
        return False
