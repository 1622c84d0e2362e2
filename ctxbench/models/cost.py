"""What an evaluation will cost, before any weights are loaded.

Some prompts of each task are really built and tokenised; the rest is arithmetic (`core.cost`). For
a new token all weights and the cached keys and values are read, so bandwidth bounds it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctxbench.core.assets import resolve_model
from ctxbench.core.cost import ASSUMED_MFU, CPU_CORE, GIB, Device, Shape, gpu_device, model_shape
from ctxbench.core.errors import near_names
from ctxbench.core.windows import WindowedText
from ctxbench.methods.base import describe
from ctxbench.models.choosing import choose_method
from ctxbench.models.loading import check_dtype, load_config, load_tokenizer
from ctxbench.tasks.chat import template_of
from ctxbench.tasks.leaf_files import tasks_path


@dataclass(frozen=True)
class TaskCost:
    """One task.

    Attributes:
        name: of the leaf.
        requests: in all, or up to the limit; a document with choices has one for each.
        looked_at: documents that were built and tokenised.
        tokens: to read, estimated over all prompts; shared beginnings are counted each time.
        longest: tokens of the longest prompt, with its new tokens.
        new_tokens: at most, per prompt.
        cut: share of prompts that do not fit and are truncated, as the task asks.
        unfit: share that do not fit and stop the run.
        about: what its data say of themselves, such as how tokens were counted; empty if nothing.
    """

    name: str
    requests: int
    looked_at: int
    tokens: float
    longest: int
    new_tokens: int
    cut: float
    unfit: float
    about: str = ""


@dataclass(frozen=True)
class EvaluationCost:
    """All tasks on one model.

    Attributes:
        title: model and method.
        window: tokens.
        tasks: in the order given.
        parameters: of the model.
        dtype_bytes: per weight.
        memory: part -> bytes.
        seconds: task -> on one device.
        device: assumed.
    """

    title: str
    window: int
    tasks: tuple[TaskCost, ...]
    parameters: int
    dtype_bytes: int
    memory: dict[str, float]
    seconds: dict[str, float]
    device: Device


def evaluation_cost(
    model: str,
    tasks: Sequence[str],
    method: str | None = None,
    *,
    dtype: str = "auto",
    device: str = "A100",
    mfu: float = ASSUMED_MFU,
    limit: int | None = None,
    sample: int = 16,
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> EvaluationCost:
    """Return what an evaluation will cost.

    Args:
        model: folder, hub id, or `mini`; its config and tokenizer are read.
        tasks: names of tasks and groups.
        method: as for `load_model`.
        dtype: of the weights; `auto`: what the config says.
        device: a key of `GPUS`, or `cpu` for one core.
        mfu: share of the peak that is reached.
        limit: prompts per task, as lm_eval's `--limit`.
        sample: prompts per task to look at; 0: all.
        metadata: for the tasks, as lm_eval's `--metadata`.
        options: `length` and the method's options.

    Raises:
        ValueError: an unknown task or device, or what `load_model` would refuse.
        FileNotFoundError: no such model, or data that a task needs.
    """
    assumed = CPU_CORE if device == "cpu" else gpu_device(device, mfu, also=", and cpu")
    path = resolve_model(model)
    config = load_config(path)
    chosen, _ = choose_method(config, method, **options)
    window = int(chosen.length or 0)
    given = {"pretrained": model, **dict(metadata or {}), "length": window}
    tokenizer = load_tokenizer(path)
    leaves = _leaves(tasks, given)
    costs = tuple(
        _task_cost(name, leaf, tokenizer, window, limit, sample) for name, leaf in leaves.items()
    )
    shape = _shape(config)
    itemsize = _itemsize(config, dtype)
    longest = max((cost.longest for cost in costs), default=0)
    memory = {
        "weights": float(shape.parameters * itemsize),
        f"one row of {longest} tokens": float(shape.forward_bytes(itemsize) * longest),
    }
    seconds = {cost.name: _seconds(cost, shape, itemsize, assumed) for cost in costs}
    title = f"{model}, {describe(chosen)}"
    return EvaluationCost(
        title, window, costs, shape.parameters, itemsize, memory, seconds, assumed
    )


def describe_cost(cost: EvaluationCost) -> list[str]:
    """Return the cost as lines of text."""
    width = max(len(task.name) for task in cost.tasks) + 2
    lines = [
        cost.title,
        f"window {cost.window} tokens; {cost.parameters:,} parameters of {cost.dtype_bytes} bytes",
        "",
        f"{'task'.ljust(width)}{'requests':>9}{'tokens':>11}{'longest':>9}{'new':>6}"
        f"{'cut':>6}{'unfit':>7}{'time':>10}",
    ]
    for task in cost.tasks:
        lines.append(
            f"{task.name.ljust(width)}{task.requests:>9}{task.tokens:>11.3g}{task.longest:>9}"
            f"{task.new_tokens:>6}{task.cut:>6.0%}{task.unfit:>7.0%}"
            f"{_duration(cost.seconds[task.name]):>10}"
        )
    looked = max(task.looked_at for task in cost.tasks)
    total = sum(cost.memory.values()) / GIB
    parts = ", ".join(f"{name} {size / GIB:.2g}" for name, size in cost.memory.items())
    device = "one CPU core" if cost.device is CPU_CORE else f"one {cost.device.name}"
    lines += [
        "",
        f"{sum(task.requests for task in cost.tasks)} requests, "
        f"{sum(task.tokens for task in cost.tasks):.3g} tokens to read "
        f"(from {looked} documents of each task; beginnings that ctxext shares, and "
        "answers that end early, take less)",
        f"memory about {total:.2g} GiB: {parts}",
        f"time about {_duration(sum(cost.seconds.values()))} on {device}, one prompt at a time",
    ]
    lines += dict.fromkeys(task.about for task in cost.tasks if task.about)
    for task in cost.tasks:
        if task.unfit:
            lines.append(
                f"{task.name} will stop: {task.unfit:.0%} of its prompts are longer than the "
                f"window of {cost.window} tokens. Give a larger length, or a shorter task."
            )
    return lines


def _leaves(names: Sequence[str], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaf tasks behind names: ours, else lm_eval's own."""
    from lm_eval.tasks import TaskManager

    for defaults in (False, True):  # the built-in index costs ten seconds
        manager: Any = TaskManager(
            include_path=None if defaults else str(tasks_path()),
            include_defaults=defaults,
            metadata=dict(metadata),
        )
        missing = [name for name in names if not manager.match_tasks([name])]
        if not missing:
            return dict(manager.load(list(names))["tasks"])
    raise ValueError(
        f"There is no task {missing[0]!r}{near_names(missing[0], manager.all_tasks)} `ctxbench ls "
        "tasks` lists ours, `lm_eval ls tasks` all. Correct the name."
    )


def _task_cost(
    name: str, task: Any, tokenizer: Any, window: int, limit: int | None, sample: int
) -> TaskCost:
    total = len(task.eval_docs)
    prompts = min(total, limit) if limit else total
    count = min(prompts, sample or prompts)
    chosen = sorted({number * prompts // count for number in range(count)})
    chat = bool((task.config.metadata or {}).get("chat"))
    template = template_of(tokenizer) if chat else None
    task.build_all_requests(
        samples=chosen, rank=0, world_size=1, apply_chat_template=chat, chat_template=template
    )
    sizes, budgets, cut, unfit = [], [0], 0, 0
    window += len(tokenizer("")["input_ids"])  # special tokens may stand beyond, as in ctxext
    for request in task.instances:
        size, new, overflow = _measure(request, tokenizer)
        if size + new > window:
            cut += overflow in ("left", "middle")
            unfit += overflow == "error"
            size = min(size, window - new) if overflow != "allow" else size
        sizes.append(size)
        budgets.append(new)
    scale = prompts / len(chosen)
    return TaskCost(
        name=name,
        requests=round(len(sizes) * scale),
        looked_at=len(chosen),
        tokens=sum(sizes) * scale,
        longest=max(size + new for size, new in zip(sizes, budgets[1:], strict=True)),
        new_tokens=max(budgets),
        cut=cut / len(sizes),
        unfit=unfit / len(sizes),
        about=getattr(getattr(task.eval_docs, "info", None), "description", ""),
    )


def _measure(request: Any, tokenizer: Any) -> tuple[int, int, str]:
    """Return the tokens of a request, its new tokens, and what is done if they do not fit."""
    first = request.args[0]
    if isinstance(first, WindowedText):  # one window at a time
        return sum(end - start for start, _, end in first.windows), 0, "allow"
    if request.request_type == "generate_until":
        options = request.args[1]
        new = int(options.get("max_gen_toks") or options.get("max_new_tokens") or 256)
        return len(tokenizer(first)["input_ids"]), new, options.get("ctx_overflow", "error")
    text = "".join(request.args)
    overflow = "allow" if request.request_type == "loglikelihood_rolling" else "error"
    return len(tokenizer(text)["input_ids"]), 0, overflow


def _seconds(cost: TaskCost, shape: Shape, itemsize: int, device: Device) -> float:
    """Return the time of a task: all prompts read, then the new tokens one by one."""
    mean = cost.tokens / max(cost.requests, 1)
    steps = cost.requests * cost.new_tokens
    moved = shape.parameters * itemsize + shape.cache_bytes(itemsize) * mean
    read = device.seconds(cost.tokens * shape.forward_flops(mean))
    return read + device.seconds(steps * 2 * shape.products, steps * moved)


def describe_run(model: Any, requests: Sequence[Any], sizes: Sequence[int], new: int) -> str:
    """Return what answering requests will cost on this machine's cores, as one sentence.

    Args:
        model: of transformers, in memory.
        requests: of lm-eval.
        sizes: tokens of each, its answer included.
        new: tokens of the longest answer.
    """
    import torch

    shape, itemsize = model_shape(model), model.dtype.itemsize
    tokens, longest = sum(sizes), max(sizes)
    cost = TaskCost("", len(requests), 0, tokens - new * len(sizes), longest, new, 0, 0)
    seconds = _seconds(cost, shape, itemsize, CPU_CORE) / torch.get_num_threads()
    memory = shape.parameters * itemsize + shape.forward_bytes(itemsize) * longest
    return (
        f"{len(requests)} requests of {tokens:,} tokens in all, the longest {longest:,}: about "
        f"{_duration(seconds)} on {torch.get_num_threads()} cores, and {memory / GIB:.1f} GiB. "
        "--limit N, or --metadata '{\"samples\": N}' where a task has it, makes it shorter."
    )


def _shape(config: Any) -> Shape:
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return model_shape(model)


def _itemsize(config: Any, dtype: str) -> int:
    import torch

    found = check_dtype(dtype)
    if not isinstance(found, torch.dtype):
        found = getattr(config, "dtype", None)
    return found.itemsize if isinstance(found, torch.dtype) else 4


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(math.ceil(seconds), 1)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
