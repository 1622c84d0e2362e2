"""What is used of lm-evaluation-harness beyond what it promises."""

from __future__ import annotations

import bisect
import fnmatch
import functools
import inspect
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ctxbench.core.compat.foreign import Foreign, Hook, Library, Mention, check
from ctxbench.core.compat.package_text import package_folder

LM_EVAL = Library("lm_eval", "0.4.13", "lm_eval==0.4.13")

# ------------------------------------------------------------------ the model


def _hook(name: str, parameters: str, cls: str = "HFLM") -> Hook:
    module = "lm_eval.models.huggingface" if cls == "HFLM" else "lm_eval.api.model"
    return Hook(LM_EVAL, module, f"{cls}.{name}", "override it in `ctxext`", parameters)


def _set(name: str, word: str, module: str = "models.huggingface") -> Mention:
    return Mention(LM_EVAL, f"lm_eval.{module}", name, "set it in `ctxext` for HFLM to read", word)


HFLM_HOOKS = (
    _hook("_get_config", "pretrained, *, revision, trust_remote_code, gguf_file, subfolder"),
    _hook(
        "_create_model",
        "pretrained, revision, dtype, trust_remote_code, parallelize, gpus, max_memory_per_gpu, "
        "max_cpu_memory, offload_folder, tp_plan, peft, delta, autogptq, gptqmodel, gguf_file, "
        "quantization_config, subfolder, **kwargs",
    ),
    _hook(
        "_create_tokenizer",
        "pretrained, tokenizer, revision, trust_remote_code, use_fast_tokenizer, gguf_file, "
        "add_bos_token, subfolder",
    ),
    _hook("_loglikelihood_tokens", "requests, disable_tqdm, override_bs"),
    _hook("_encode_pair", "context, continuation", "TemplateLM"),
    _hook("tok_encode", "string, add_special_tokens, left_truncate_len, **kwargs"),
    _hook("apply_chat_template", "chat_history, add_generation_prompt"),
    _hook("loglikelihood", "requests, disable_tqdm"),
    _hook("loglikelihood_rolling", "requests, disable_tqdm"),
    _hook("generate_until", "requests, disable_tqdm"),
    _hook("max_length", ""),
    _hook("get_model_info", ""),
    _hook("set_cache_hook", "cache_hook", "LM"),
)
"""Methods of HFLM that `ctxext` overrides."""

HFLM_ATTRIBUTES = (
    _set("HFLM._get_config", "_config"),
    _set("HFLM._create_model", "_model"),
    _set("LM.rank", "_rank", "api.model"),
    _set("LM.world_size", "_world_size", "api.model"),
)
"""Private attributes of HFLM that `ctxext` sets."""

_ARGUMENTS = Foreign(
    LM_EVAL,
    "lm_eval.models.huggingface",
    "HFLM.__init__",
    "tell HFLM's arguments from misspelt ones",
)
_SERVERS = Foreign(
    LM_EVAL,
    "lm_eval.models.api_models",
    "TemplateAPI.__init__",
    "know the window of a model on a server that says none",
)
_ANSWERS = Mention(
    LM_EVAL, "lm_eval.api.model", "CacheHook.__init__", "refuse --use_cache", "dbdict"
)
_OF_MODELS = tuple(
    Hook(LM_EVAL, f"lm_eval.{module}", name, "answer requests as HFLM does", parameters, more=True)
    for module, name, parameters in (
        ("utils", "make_disjoint_window", "pair"),
        (
            "utils",
            "get_rolling_token_windows",
            "token_list, prefix_token, max_seq_len, context_len",
        ),
        ("models.utils", "handle_stop_sequences", "until, eos"),
        ("models.utils", "normalize_gen_kwargs", "gen_kwargs, default_max_gen_toks"),
        ("models.utils", "postprocess_generated_text", "generation, stop, think_end_token"),
        (
            "models.utils_hf",
            "stop_sequences_criteria",
            "tokenizer, stop_sequences, initial_decoder_input_length, batch_size",
        ),
    )
)


@functools.cache
def check_hooks() -> None:
    """Find what `ctxext` overrides, sets and calls of HFLM.

    Raises:
        ForeignChanged: the first that is not as it was checked.
    """
    check((*HFLM_HOOKS, *HFLM_ATTRIBUTES, *_OF_MODELS))


def model_arguments() -> dict[str, Any]:
    """Return HFLM's arguments and their defaults."""
    parameters = inspect.signature(_ARGUMENTS.find()).parameters
    return {n: p.default for n, p in parameters.items() if n not in ("self", "kwargs")}


def server_window() -> int:
    """Return the tokens that lm-eval takes for the window of a model on a server."""
    return inspect.signature(_SERVERS.find()).parameters["max_length"].default


def keeps_answers(cache_hook: Any) -> bool:
    """Return whether the harness keeps answers itself (`--use_cache`)."""
    return _ANSWERS.of(cache_hook) is not None


# ------------------------------------------------------------------ discovery

_REGISTER = Hook(
    LM_EVAL,
    "lm_eval.api.registry",
    "model_registry.register",
    "be found as --model ctxext",
    "*aliases, target",
    more=True,
)
_MANAGER = Hook(
    LM_EVAL,
    "lm_eval.tasks.manager",
    "TaskManager.__init__",
    "let every TaskManager find its tasks",
    "verbosity, include_path, include_defaults",
    more=True,
)

_INDEX = Hook(
    LM_EVAL,
    "lm_eval.tasks.manager",
    "TaskIndex.build",
    "make tasks of lengths that are not listed",
    "paths, *, resolve_includes",
    more=True,
)
_LOOK_UPS = tuple(
    Hook(LM_EVAL, "lm_eval.tasks.manager", f"TaskManager.{name}", _INDEX.why, "task_list")
    for name in ("match_tasks", "load")
)

IS_FOUND = (
    "import lm_eval.models\n"
    "from lm_eval.api import registry\n"
    "from lm_eval.tasks import manager\n"
    "ours = 'ctxext' in registry.model_registry\n"
    "tasks = getattr(manager.TaskManager.__init__, '_ctxbench', False)\n"
    "reads = hasattr(registry, 'load_plugins')\n"
    "print('found', (ours and tasks) or reads)\n"
)
"""A program, for an interpreter without ctxbench, that prints whether lm_eval finds ours."""


def add_model(name: str, target: str) -> None:
    """Register a model, unless this lm_eval reads our entry points itself.

    Args:
        name: for `--model`.
        target: `module:class`, imported when it is asked for.
    """
    from lm_eval.api import registry

    if not hasattr(registry, "load_plugins") and name not in registry.model_registry:
        _REGISTER.find()(name, target=target)


def include_tasks(
    manager: ModuleType, folder: Callable[[], Path], unlisted: Callable[[str], Path | None]
) -> None:
    """Let every TaskManager that includes the built-in tasks include a folder, before the user's.

    Whatever is asked for by a name that it does not have is looked up in `unlisted` too.

    `CTXBENCH_TASKS_ONLY=1` leaves the built-in tasks out, whose thousands of files take longer to
    read than the rest of a start. Nothing is done where lm_eval reads our entry points itself.

    Args:
        manager: the module `lm_eval.tasks.manager`.
        folder: of the tasks, asked for whenever a TaskManager is made.
        unlisted: name or pattern -> folder of further tasks, or None.

    Raises:
        ForeignChanged: a TaskManager is made with other arguments.
    """
    original = manager.TaskManager.__init__
    if hasattr(manager, "discover_plugin_task_paths") or getattr(original, "_ctxbench", False):
        return
    _MANAGER.find()
    look_ups = {hook.name.rpartition(".")[2]: hook.find() for hook in _LOOK_UPS}

    @functools.wraps(original)
    def __init__(self, verbosity=None, include_path=None, include_defaults=True, *args, **kwargs):
        given = include_path
        if include_defaults:
            own = (
                [given] if isinstance(given, (str, bytes)) or hasattr(given, "joinpath") else given
            )
            include_path = [str(folder()), *(own or [])]
            include_defaults = os.environ.get("CTXBENCH_TASKS_ONLY") != "1"
        original(self, verbosity, include_path, include_defaults, *args, **kwargs)
        self.include_path = given

    __init__._ctxbench = True  # type: ignore[attr-defined]
    manager.TaskManager.__init__ = __init__
    for name, look_up in look_ups.items():
        setattr(manager.TaskManager, name, _looking_further(look_up, unlisted))


def _looking_further(
    look_up: Callable[[Any, Any], Any], unlisted: Callable[[str], Path | None]
) -> Callable[[Any, Any], Any]:
    """Wrap a method that takes names of tasks: what is unknown may be in another folder."""

    @functools.wraps(look_up)
    def find(self, task_list):
        for name in task_list if isinstance(task_list, list) else [task_list]:
            if isinstance(name, str) and not fnmatch.filter(self.all_tasks, name):
                _add_tasks(self, unlisted(name))
        return look_up(self, task_list)

    return find


def _add_tasks(manager: Any, folder: Path | None) -> None:
    """Add the tasks of a folder to what a TaskManager has."""
    found = _INDEX.find()([folder]) if folder is not None else {}
    for name, entry in found.items():
        if name not in manager.task_index:
            manager.task_index[name] = entry
            kind = manager.all_groups if entry.kind.name == "GROUP" else manager.all_subtasks
            bisect.insort(kind, name)
            bisect.insort(manager.all_tasks, name)


# ---------------------------------------------------------------------- tasks

_LOAD_YAML = Hook(
    LM_EVAL,
    "lm_eval.tasks._yaml_loader",
    "load_yaml",
    "read task files as the harness does",
    "path, *, resolve_func, recursive",
    more=True,
)
_NAME = re.compile(r"^(?:task|group|tag):\s*[\"']?([\w.-]+)[\"']?\s*$", re.MULTILINE)
TASK_HOOKS = tuple(
    Hook(
        LM_EVAL, "lm_eval.api.task", f"ConfigurableTask.{name}",
        "make tasks of a class of their own", parameters,
    )
    for name, parameters in (
        ("__init__", "data_dir, cache_dir, download_mode, config"),
        ("download", "dataset_kwargs, **kwargs"),
        ("doc_to_text", "doc, doc_to_text"),
        ("construct_requests", "doc, ctx, **kwargs"),
        ("build_all_requests", "*, limit, samples, rank, world_size, cache_requests, "
         "rewrite_requests_cache, system_instruction, apply_chat_template, fewshot_as_multiturn, "
         "chat_template, tokenizer_name"),
        ("fewshot_context", "doc, num_fewshot, system_instruction, apply_chat_template, "
         "fewshot_as_multiturn, chat_template, gen_prefix"),
    )
)  # fmt: skip
"""Methods of ConfigurableTask that our task classes override."""

_MODEL_IN_USE = tuple(
    Mention(LM_EVAL, "lm_eval.evaluator", name, "know the model that tasks are for", "lm")
    for name in ("simple_evaluate", "evaluate")
)
_OF_TASKS = (
    Foreign(LM_EVAL, "lm_eval.config.task", "TaskConfig", "know the keys of a task file"),
    Foreign(LM_EVAL, "lm_eval.__main__", "cli_evaluate", "run lm_eval under its own name"),
)
ENTRIES = (
    *HFLM_HOOKS, *HFLM_ATTRIBUTES, *_OF_MODELS, _ARGUMENTS, _SERVERS, _ANSWERS, _REGISTER, _MANAGER,
    _INDEX, *_LOOK_UPS, _LOAD_YAML, *TASK_HOOKS, *_MODEL_IN_USE, *_OF_TASKS,
)  # fmt: skip


@functools.cache
def check_task_hooks() -> None:
    """Find what our task classes override, and where they find the model.

    Raises:
        ForeignChanged: the first that is not as it was checked.
    """
    check((*TASK_HOOKS, *_MODEL_IN_USE))


def model_in_use() -> Any:
    """Return the model that lm-eval is evaluating, None outside an evaluation.

    The evaluator hands tasks no model, so this is the `lm` of the evaluator's frame that called.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "lm_eval.evaluator" and "lm" in frame.f_locals:
            return frame.f_locals["lm"]
        frame = frame.f_back
    return None


def load_task_file(file: Path, *, functions: bool) -> dict[str, Any]:
    """Return the content of a task file, includes merged.

    Args:
        file: YAML.
        functions: import what `!function` names; else its name stays.
    """
    return _LOAD_YAML.find()(file, resolve_func=functions, recursive=True)


def names_of_tasks() -> Iterator[str]:
    """Yield the names of lm-eval's own tasks, groups and tags, read from its files."""
    for file in (package_folder("lm_eval") / "tasks").rglob("*.yaml"):
        yield from _NAME.findall(file.read_text(encoding="utf-8", errors="replace"))
