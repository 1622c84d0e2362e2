"""What users and tasks hand to `ctxext`: whose each argument is, and which make no sense."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from ctxbench.core.assets import resolve_model
from ctxbench.core.compat.lm_eval import model_arguments
from ctxbench.core.errors import near_names
from ctxbench.core.lengths import parse_length
from ctxbench.methods.record import read_record
from ctxbench.methods.registry import method_and_options, method_class
from ctxbench.models.loading import load_config

STATEMENTS = ("length", "adopt", "override", "trained_length", "original_length")
"""Arguments about the method besides its own options."""

FROM_PRETRAINED = (
    "attn_implementation",
    "cache_dir",
    "device_map",
    "force_download",
    "load_in_4bit",
    "load_in_8bit",
    "local_files_only",
    "low_cpu_mem_usage",
    "max_memory",
    "quantization_config",
    "token",
    "use_safetensors",
    "variant",
)
"""Arguments that transformers' `from_pretrained` takes and HFLM passes on."""

OVERFLOW = ("error", "left", "middle", "allow")
"""What a task may ask for a prompt that does not fit, as generation argument `ctx_overflow`."""


def split_arguments(
    pretrained: Any, method: str | None, given: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split model arguments into those of the method and those of HFLM and transformers.

    Raises:
        ValueError: an argument belongs to neither; the message lists near names.
    """
    name = method
    if name is None and isinstance(pretrained, str):
        record = read_record(load_config(resolve_model(pretrained)))
        name = record.method if record else None
    base, _ = method_and_options(name or "none")
    options = {field.name for field in fields(method_class(base))} | set(STATEMENTS)
    harness = model_arguments()
    asked = {key: value for key, value in given.items() if key in options}
    others = {key: value for key, value in given.items() if key not in options}
    for key in others:
        if key not in harness and key not in FROM_PRETRAINED:
            near = near_names(key, [*options, *harness, *FROM_PRETRAINED])
            raise ValueError(
                f"ctxext has no argument {key!r}{near} Options of method={base}: "
                f"{', '.join(sorted(options - set(STATEMENTS))) or 'none'}; about the method: "
                f"{', '.join(STATEMENTS)}; others as for --model hf."
            )
    return asked, others


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


def generation_arguments(
    given: dict[str, Any], *, new_tokens: int, end: str, overflow: str
) -> tuple[dict[str, Any], list[str], str]:
    """Return arguments for transformers, stop strings, and what to do with long prompts.

    Args:
        given: the task's `generation_kwargs`.
        new_tokens: at most, where the task does not say.
        end: text of the token that ends a text; it always stops.
        overflow: of `OVERFLOW`, where the task does not say.

    Raises:
        ValueError: the task asks for something else than `OVERFLOW` has.
    """
    options: dict[str, Any] = dict(normalize_gen_kwargs(given, new_tokens))
    until = handle_stop_sequences(options.pop("until", None), eos=end)
    new_tokens = int(options.pop("max_gen_toks"))
    overflow = options.pop("ctx_overflow", overflow)
    if overflow not in OVERFLOW:
        raise ValueError(
            f"ctx_overflow={overflow!r} is not allowed; it is one of {', '.join(OVERFLOW)}. "
            "Mend the task's generation_kwargs."
        )
    return {**_sampling(options), "max_new_tokens": new_tokens}, until, overflow


def _sampling(options: dict[str, Any]) -> dict[str, Any]:
    """Return generation arguments for transformers: greedy unless sampling was asked for."""
    if not options.get("do_sample"):
        greedy = {k: v for k, v in options.items() if k not in ("temperature", "top_p", "top_k")}
        return {**greedy, "do_sample": False}
    return options
