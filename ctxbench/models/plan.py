"""What an evaluation will cost, before any weights are loaded.

Some prompts of each task are really built and tokenised; the rest is arithmetic. Operations per
token: `2 N` for the matrix products and `2 L d n` for causal attention over n tokens. A new token
reads all weights and the cached keys and values, so it is bound by the memory's bandwidth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctxbench.core.assets import resolve_model
from ctxbench.core.errors import near_names
from ctxbench.core.hardware import ASSUMED_MFU, BANDWIDTH, CORE_GIGAFLOPS, PEAK_TERAFLOPS
from ctxbench.core.windows import WindowedText
from ctxbench.methods.base import describe
from ctxbench.models.choosing import choose_method
from ctxbench.models.loading import check_dtype, load_config, load_tokenizer
from ctxbench.models.memory import token_bytes
from ctxbench.tasks.leaf_files import tasks_path

_CORE_BANDWIDTH = 0.01  # TB/s of one core, assumed
_GIB = 2**30


@dataclass(frozen=True)
class TaskPlan:
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
class EvaluationPlan:
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
    tasks: tuple[TaskPlan, ...]
    parameters: int
    dtype_bytes: int
    memory: dict[str, float]
    seconds: dict[str, float]
    device: str


def plan_evaluation(
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
) -> EvaluationPlan:
    """Return what an evaluation will cost.

    Args:
        model: folder, hub id, or `mini`; its config and tokenizer are read.
        tasks: names of tasks and groups.
        method: as for `load_model`.
        dtype: of the weights; `auto`: what the config says.
        device: a key of `PEAK_TERAFLOPS`, or `cpu` for one core.
        mfu: share of the peak that is reached.
        limit: prompts per task, as lm_eval's `--limit`.
        sample: prompts per task to look at; 0: all.
        metadata: for the tasks, as lm_eval's `--metadata`.
        options: `length` and the method's options.

    Raises:
        ValueError: an unknown task or device, or what `load_model` would refuse.
        FileNotFoundError: no such model, or data that a task needs.
    """
    rate, bandwidth = _speed(device, mfu)
    path = resolve_model(model)
    config = load_config(path)
    chosen, _ = choose_method(config, method, **options)
    window = int(chosen.length or 0)
    given = {"pretrained": model, **dict(metadata or {}), "length": window}
    tokenizer = load_tokenizer(path)
    leaves = _leaves(tasks, given)
    plans = tuple(
        _plan_task(name, leaf, tokenizer, window, limit, sample) for name, leaf in leaves.items()
    )
    parameters, products = _parameters(config)
    itemsize = _itemsize(config, dtype)
    longest = max((plan.longest for plan in plans), default=0)
    memory = {
        "weights": float(parameters * itemsize),
        f"one row of {longest} tokens": float(token_bytes(config, itemsize) * longest),
    }
    width = config.num_attention_heads * _head_dim(config)
    seconds = {}
    for plan in plans:
        mean = plan.tokens / max(plan.requests, 1)
        read = plan.tokens * (2 * products + 2 * config.num_hidden_layers * width * mean)
        step_bytes = parameters * itemsize + _cache_bytes(config, itemsize) * mean
        steps = plan.requests * plan.new_tokens
        written = max(steps * step_bytes / bandwidth, steps * 2 * products / rate)
        seconds[plan.name] = read / rate + written
    title = f"{model}, {describe(chosen)}"
    return EvaluationPlan(title, window, plans, parameters, itemsize, memory, seconds, device)


def describe_evaluation(plan: EvaluationPlan) -> list[str]:
    """Return the plan as lines of text."""
    width = max(len(task.name) for task in plan.tasks) + 2
    lines = [
        plan.title,
        f"window {plan.window} tokens; {plan.parameters:,} parameters of {plan.dtype_bytes} bytes",
        "",
        f"{'task'.ljust(width)}{'requests':>9}{'tokens':>11}{'longest':>9}{'new':>6}"
        f"{'cut':>6}{'unfit':>7}{'time':>10}",
    ]
    for task in plan.tasks:
        lines.append(
            f"{task.name.ljust(width)}{task.requests:>9}{task.tokens:>11.3g}{task.longest:>9}"
            f"{task.new_tokens:>6}{task.cut:>6.0%}{task.unfit:>7.0%}"
            f"{_duration(plan.seconds[task.name]):>10}"
        )
    looked = max(task.looked_at for task in plan.tasks)
    total = sum(plan.memory.values()) / _GIB
    parts = ", ".join(f"{name} {size / _GIB:.2g}" for name, size in plan.memory.items())
    device = "one CPU core" if plan.device == "cpu" else f"one {plan.device}"
    lines += [
        "",
        f"{sum(task.requests for task in plan.tasks)} requests, "
        f"{sum(task.tokens for task in plan.tasks):.3g} tokens to read "
        f"(from {looked} documents of each task; beginnings that ctxext shares, and "
        "answers that end early, take less)",
        f"memory about {total:.2g} GiB: {parts}",
        f"time about {_duration(sum(plan.seconds.values()))} on {device}, one prompt at a time",
    ]
    lines += dict.fromkeys(task.about for task in plan.tasks if task.about)
    for task in plan.tasks:
        if task.unfit:
            lines.append(
                f"{task.name} will stop: {task.unfit:.0%} of its prompts are longer than the "
                f"window of {plan.window} tokens. Give a larger length, or a shorter task."
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


def _plan_task(
    name: str, task: Any, tokenizer: Any, window: int, limit: int | None, sample: int
) -> TaskPlan:
    total = len(task.eval_docs)
    prompts = min(total, limit) if limit else total
    count = min(prompts, sample or prompts)
    chosen = sorted({number * prompts // count for number in range(count)})
    task.build_all_requests(samples=chosen, rank=0, world_size=1)
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
    return TaskPlan(
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


def _speed(device: str, mfu: float) -> tuple[float, float]:
    """Return operations and bytes per second."""
    if device == "cpu":
        return CORE_GIGAFLOPS * 1e9, _CORE_BANDWIDTH * 1e12
    if device not in PEAK_TERAFLOPS:
        raise ValueError(
            f"--gpu {device!r} is not known{near_names(device, PEAK_TERAFLOPS)} Known: "
            f"{', '.join(PEAK_TERAFLOPS)}, and cpu. Give one of these, and --mfu to match yours."
        )
    return PEAK_TERAFLOPS[device] * 1e12 * mfu, BANDWIDTH[device] * 1e12


def _parameters(config: Any) -> tuple[int, int]:
    """Return all parameters, and those that every token is multiplied with."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    products = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    if not config.tie_word_embeddings:  # looked up, not multiplied
        products -= model.get_input_embeddings().weight.numel()
    return sum(p.numel() for p in model.parameters()), products


def _itemsize(config: Any, dtype: str) -> int:
    import torch

    found = check_dtype(dtype)
    if not isinstance(found, torch.dtype):
        found = getattr(config, "dtype", None)
    return found.itemsize if isinstance(found, torch.dtype) else 4


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _cache_bytes(config: Any, itemsize: int) -> int:
    """Return the bytes of keys and values per token."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * _head_dim(config) * itemsize


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(math.ceil(seconds), 1)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
