"""What users and tasks hand to `ctxext`: whose each argument is, and which make no sense."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch

from ctxbench.core.assets import resolve_model
from ctxbench.core.compat.lm_eval import model_arguments
from ctxbench.core.errors import near_names, shown
from ctxbench.core.lengths import parse_length
from ctxbench.methods.record import read_record
from ctxbench.methods.registry import class_and_options
from ctxbench.models.loading import check_dtype, load_config

log = logging.getLogger(__name__)

DEFAULT = ("mini", "dynamic_ntk")
"""Model and method where no argument at all is given."""

NO_MODEL = (
    "ctxext was given model arguments and no pretrained=MODEL among them. Give a folder, a hub id "
    "or the bundled pretrained=mini; without any argument the bundled model runs with dynamic_ntk."
)
_OF_THE_HARNESS = ("batch_size", "max_batch_size", "device")
"""What lm-eval hands to every model."""


def is_nothing(given: Iterable[Any]) -> bool:
    """Return whether nothing was given but what lm-eval hands to every model.

    Args:
        given: values of arguments, None where there is none, and names of others.
    """
    found = [each for each in given if each is not None and each not in _OF_THE_HARNESS]
    if not found:
        log.warning(
            "No model was given: the bundled one runs, with method=%s. A real one: --model_args "
            "pretrained=FOLDER_OR_ID,method=NAME,length=N", DEFAULT[1],
        )  # fmt: skip
    return not found


STATEMENTS = ("length", "adopt", "override", "trained_length", "original_length", "layers")
"""Arguments about the method besides its own options."""
OURS = ("proof", "sliding_window")
"""Arguments about how a method is attached, and to what."""

FROM_PRETRAINED = (
    "attn_implementation",
    "cache_dir",
    "device_map",
    "force_download",
    "local_files_only",
    "token",
    "use_safetensors",
    "variant",
)
"""Arguments that transformers' `from_pretrained` takes and HFLM passes on."""

_QUANTISED = "A checkpoint that was saved quantised loads without it: its config says how"

REFUSED = {
    "autogptq": _QUANTISED,
    "delta": "Add the delta to its base first, save the sum, and give that folder as pretrained",
    "gguf_file": "Convert the file to a transformers checkpoint",
    "gptqmodel": _QUANTISED,
    "load_in_4bit": _QUANTISED,
    "load_in_8bit": _QUANTISED,
    "logits_cache": "Common beginnings are shared anyway; share_prefixes=False turns that off",
    "low_cpu_mem_usage": "transformers always saves memory now",
    "max_memory": "Give max_memory_per_gpu and max_cpu_memory",
    "mixed_precision_dtype": "Give dtype",
    "quantization_config": _QUANTISED,
    "softmax_dtype": "Log-probabilities are computed in float32 whatever the dtype",
    "subfolder": "Give a folder that holds the checkpoint itself",
}
"""Arguments of `--model hf` that HFLM, transformers or `ctxext` would ignore, and what to do."""

NEED_PARALLELIZE = ("device_map", "max_memory_per_gpu", "max_cpu_memory", "offload_folder")
"""Arguments that HFLM follows with `parallelize=True` alone."""

OF_A_MODEL_IN_MEMORY = (
    "add_bos_token",
    "backend",
    "batch_size",
    "chat_template_args",
    "enable_thinking",
    "max_batch_size",
    "prefix_token_id",
    "revision",
    "think_end_token",
    "tokenizer",
    "truncation",
    "trust_remote_code",
    "use_fast_tokenizer",
)
"""Arguments that are followed for a model in memory; the others say how to load one."""


def rows_at_once(name: str, value: Any) -> int:
    """Return a batch size.

    Raises:
        ValueError: it is no whole number of at least 1.
    """
    try:
        rows = int(value)
    except (TypeError, ValueError):
        rows = 0
    if rows < 1:
        raise ValueError(
            f"{name}={shown(value)} is not allowed; it must be a whole number of at least 1, or "
            "batch_size=auto. Change it or leave it out."
        )
    return rows


def split_arguments(
    pretrained: Any, method: str | None, given: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split model arguments into those of the method and those of HFLM and transformers.

    Raises:
        ValueError: an argument belongs to neither; the message lists near names.
    """
    name = method
    if name is None and isinstance(pretrained, str):
        revision, trust = given.get("revision"), bool(given.get("trust_remote_code"))
        config = load_config(resolve_model(pretrained), revision=revision, trust_remote_code=trust)
        record = read_record(config)
        name = record.method if record else None
    cls, _ = class_and_options(name)
    options = {field.name for field in fields(cls)} | set(STATEMENTS)
    harness = model_arguments()
    known = [*options, *OURS, *harness, *FROM_PRETRAINED, *REFUSED]
    asked = {key: value for key, value in given.items() if key in options}
    others = {key: value for key, value in given.items() if key not in options}
    for key in others:
        if key not in known:
            raise ValueError(
                f"ctxext has no argument {key!r}{near_names(key, known)} Options of "
                f"method={cls.name}: {', '.join(sorted(options - set(STATEMENTS))) or 'none'}; "
                f"about the method: {', '.join((*STATEMENTS, *OURS))}; others as for --model hf."
            )
    return asked, others


def check_followed(given: dict[str, Any], *, in_memory: bool) -> None:
    """Check that no argument of HFLM or transformers would be ignored.

    Raises:
        ValueError: one would; says what to do.
    """
    defaults = model_arguments()
    check_kinds(given)
    for name, value in given.items():
        if value is None or value == defaults.get(name, False):
            continue
        if name in REFUSED:
            raise ValueError(f"{name}={value!r} cannot be combined with ctxext. {REFUSED[name]}.")
        if name in NEED_PARALLELIZE and given.get("parallelize", False) is False:
            raise ValueError(
                f"{name}={value!r} says how a model is spread over devices, which parallelize=True "
                f"asks for. Add it, or leave out {name}."
            )
        if in_memory and name not in OF_A_MODEL_IN_MEMORY:
            raise ValueError(
                f"{name}={value!r} says how a checkpoint is loaded, but pretrained is a model in "
                "memory. Leave it out, or give the checkpoint's folder."
            )


def check_kinds(given: dict[str, Any]) -> None:
    """Check the types of arguments that other libraries would stumble over.

    Raises:
        ValueError: one has another type.
    """
    for names, kind, what in (
        (("peft", "delta", "revision", "subfolder", "cache"), str, "text"),
        (("add_bos_token", "trust_remote_code", "parallelize"), bool, "True or False"),
    ):
        for name in names:
            value = given.get(name)
            if value is not None and not isinstance(value, kind):
                raise ValueError(
                    f"{name}={shown(value)} is not allowed; it must be {what}. Change it or leave "
                    "it out."
                )


def check_in_memory(model: Any, device: str | None, dtype: Any) -> None:
    """Check that a model in memory is where and what was asked for: it is not moved or cast.

    Raises:
        ValueError: it is not.
    """
    if device is not None:
        asked = torch.device(device)
        if asked.type != model.device.type or asked.index not in (None, model.device.index):
            raise ValueError(
                f"device={device} was asked for, but the model in memory is on {model.device}. "
                "Move it there, or leave out device."
            )
    if isinstance(asked := check_dtype(dtype), torch.dtype) and asked != model.dtype:
        raise ValueError(
            f"dtype={dtype} was asked for, but the model in memory has {model.dtype}. Cast it, or "
            "leave out dtype."
        )


def window_asked(length: int | str | None, max_length: int | str | None) -> int | str | None:
    """Return the window that `length`, or HFLM's name for it, asks for; None: neither does.

    Raises:
        ValueError: they disagree.
    """
    if max_length is None:
        return length
    if length is not None and parse_length(length) != parse_length(max_length):
        raise ValueError(
            f"length={length} and max_length={parse_length(max_length)} disagree; both mean the "
            "window at evaluation. Give length alone."
        )
    return max_length


def stride_asked(stride: int | str | None, window: int) -> int | None:
    """Return the stride of rolling windows, tokens; None: disjoint windows.

    Raises:
        ValueError: it is longer than the window.
    """
    if stride is None:
        return None
    tokens = parse_length(stride)
    if tokens > window:
        raise ValueError(
            f"stride={tokens} is longer than the window of {window} tokens, so text between "
            "windows would not be scored. Give a stride of at most the window."
        )
    return tokens
