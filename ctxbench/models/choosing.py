"""Which method a model runs with: from its record, from what is asked, or from what is stated."""

from __future__ import annotations

import copy
import logging
import warnings
from dataclasses import fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from ctxbench.core.errors import shown
from ctxbench.core.lengths import parse_length
from ctxbench.core.own_window import own_window
from ctxbench.core.settings import read_values
from ctxbench.methods.base import Method
from ctxbench.methods.record import Record, base_config, read_record
from ctxbench.methods.registry import MethodLike, class_and_options, get_method
from ctxbench.methods.rope_settings import SCALINGS, own_length, rope_settings, set_rope_settings
from ctxbench.models.checks import check_named_method

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def choose_method(
    config: PreTrainedConfig,
    method: MethodLike | None = None,
    *,
    adopt: bool = False,
    override: bool = False,
    training: bool = False,
    trained_length: int | str | None = None,
    original_length: int | str | None = None,
    layers: str | None = None,
    **options: Any,
) -> tuple[Method, Record]:
    """Decide which method, fully resolved, a model is to run with.

    Args:
        config: of the checkpoint; not changed.
        method: name, preset, method or class; None: the record's method, else `none`.
        adopt: state what made a checkpoint that carries no record.
        override: replace recorded options or method, or a scaling that the config has already.
        training: complete the options as the method is trained (`Method.for_training`).
        trained_length: with `adopt`: the length it was trained at, tokens. Also an option of
            methods that have one of that name.
        original_length: with `adopt`: the window before extension, tokens.
        layers: `full`: layers with a sliding window keep the angles that they were trained with.
        options: the method's options and `length`; override a record's only with `override`.

    Returns:
        The method and the record for the extended config.

    Raises:
        ValueError: the request contradicts the checkpoint or itself; the message says how.
    """
    if layers is not None:
        options |= {"trained_length": trained_length, "original_length": original_length}
        options |= {"adopt": adopt, "override": override, "training": training}
        chosen, record = choose_method(config, method, **options)
        check_layers(layers, config)
        return chosen, replace(record, layers=layers)
    record = read_record(config)
    if method and record and not override and _is_base(record):
        config, record = base_config(config), None  # nothing that another method would undo
    name = method or (record.method if record else None)
    if trained_length is not None and _has_option(name, "trained_length"):
        options["trained_length"] = parse_length(trained_length)
        trained_length = trained_length if adopt else None
    if isinstance(method, Method):
        method, options = class_and_options(method, **options)
    if adopt:
        return _adopt(config, record, method, trained_length, original_length, override, options)
    for name, value in (("trained_length", trained_length), ("original_length", original_length)):
        if value is not None:
            raise ValueError(
                f"{name}={value} is a statement about a checkpoint without a record and needs "
                f"adopt=true. Add adopt=true, or leave {name} out."
            )
    if record is not None:
        return _reopen(config, record, method, override, training, options)
    if override:
        _require_scaled(config)
    chosen = get_method(method, **options)
    scaling = _scaling(config)
    if scaling and chosen.own_scaling and not override:
        raise ValueError(
            f"This checkpoint is already extended: its config has rope_type "
            f"'{scaling['rope_type']}' ({_brief(scaling)}) and no ctxbench record, so "
            f"method={chosen.name} on top of it would be a different method. Use method=none to "
            f"run it as it is, adopt=true,method={chosen.name},trained_length=N if it was made "
            "with that method, or override=true to replace its scaling."
        )
    base = _unscaled(config) if scaling and chosen.own_scaling else config
    if base is not config:
        _keep_searched(base, scaling)
    chosen = chosen.resolve(base)
    if method is None:
        check_named_method(base, chosen)
    return _with_record(chosen.for_training(base) if training else chosen, base)


def check_layers(layers: str, config: PreTrainedConfig) -> None:
    """Check that a method can leave a model's sliding layers alone.

    Raises:
        ValueError: something else was asked, or no layer slides, or none does not.
    """
    if layers != "full":
        raise ValueError(
            f"layers={shown(layers)} is not allowed; layers=full changes the layers that see the "
            "whole text and leaves those with a sliding window alone. Give that, or leave it out."
        )
    window = own_window(config)
    if window is None or window.layers == window.of:
        there = "no layer" if window is None else "every layer"
        raise ValueError(
            f"layers=full was given, but {there} of this {config.model_type} model has a sliding "
            "window. Leave it out."
        )


def check_attention(method: Method, implementation: object) -> None:
    """Refuse a kernel for a method that computes attention itself.

    Raises:
        ValueError: it would be ignored.
    """
    if implementation is not None and method.own_attention:
        raise ValueError(
            f"attn_implementation={implementation} would be ignored: method={method.name} computes "
            "attention itself. Leave attn_implementation (in training: --attention) out, or use "
            "another method."
        )


@cache
def warn_untrained(name: str) -> None:
    """Say once that a model was not trained with a method that means nothing without."""
    logging.getLogger(__name__).warning(
        "method=%s means nothing on a model that was not trained with it, and this one was not: "
        "its numbers are not the method's. Train it with ctxbench-train --method %s.", name, name,
    )  # fmt: skip


def _is_base(record: Record) -> bool:
    """Return whether a model has no method and was not trained beyond its window."""
    trained = record.trained_length or 0
    return record.method == get_method(None).name and trained <= record.original_length


def _reopen(
    config: PreTrainedConfig,
    record: Record,
    method: MethodLike | None,
    override: bool,
    training: bool,
    options: dict[str, Any],
) -> tuple[Method, Record]:
    """A checkpoint with a record: its method and options, another length if asked."""
    cls, given = class_and_options(method or record.method, **options)
    name = cls.name
    if name != record.method:
        if not override:
            raise ValueError(
                f"The checkpoint was made with method={record.method} "
                f"({_brief(record.options)}), but method={name} was asked for. Leave out method "
                "to use what it was made with, or add override=true to replace it."
            )
        given.setdefault("length", record.trained_length or own_length(config))
        base = base_config(config)
        chosen = get_method(cls, **given).resolve(base)
        chosen, fresh = _with_record(chosen.for_training(base) if training else chosen, base)
        replaced = {"method": record.method, **record.options}
        return chosen, replace(fresh, trained_length=record.trained_length, overridden={**replaced})
    given = read_values(cls, given, f"method={name}", text=True)
    recorded = read_values(cls, record.options, f"method={name}", text=True)
    changed = {
        option: recorded.get(option)
        for option, value in given.items()
        if option != "length" and value != recorded.get(option)
    }
    if changed and not override:
        raise ValueError(
            f"The checkpoint was made with method={name} and {_brief(changed)}, but "
            f"{_brief({option: given[option] for option in changed})} was asked for. Leave it "
            "out, or add override=true to change it (the results will say so). A longer "
            "'length' needs no override."
        )
    before = record.trained_length or own_length(config)
    length = given.get("length") or before
    if length != before and (training or not record.trained_length):
        recorded |= _following(cls, recorded, base_config(config), before, length, training)
    chosen = cls(**{**recorded, **given, "length": length}).resolve(base_config(config))
    return chosen, replace(
        record, options=_plain(chosen.options()), overridden={**record.overridden, **changed}
    )


def _following(
    cls: type[Method],
    recorded: dict[str, Any],
    base: PreTrainedConfig,
    before: int,
    length: int,
    training: bool,
) -> dict[str, Any]:
    """Return the options that followed from the length before, as they follow from another.

    A factor that training made part of a model stays where that model only serves.
    """

    def completed(window: int) -> dict[str, Any]:
        method = cls(length=window).resolve(base)
        return (method.for_training(base) if training else method).options()

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about options that nobody gave
            old, new = completed(before), completed(length)
    except ValueError:  # an option that has no default
        return {}
    found = {
        name: new[name]
        for name, value in old.items()
        if value == recorded.get(name) and new[name] != value
    }
    if found:
        logging.getLogger(__name__).warning(
            "method=%s at length=%d: %s (%s at the length before, %d).", cls.name, length,
            _brief(found), _brief({name: old[name] for name in found}), before,
        )  # fmt: skip
    return found


def _adopt(
    config: PreTrainedConfig,
    record: Record | None,
    method: MethodLike | None,
    trained_length: int | str | None,
    original_length: int | str | None,
    override: bool,
    options: dict[str, Any],
) -> tuple[Method, Record]:
    """A checkpoint made elsewhere: the user says by what."""
    if record is not None:
        raise ValueError(
            f"adopt=true is for checkpoints without a record; this one says it was made with "
            f"method={record.method}. Leave out adopt, or use override=true to change options."
        )
    if method is None or trained_length is None:
        raise ValueError(
            "adopt=true needs both method=NAME and trained_length=N (tokens): what made the "
            "checkpoint and at which length it was trained. Add what is missing."
        )
    trained = parse_length(trained_length)
    scaling = _scaling(config)
    if original_length is not None:
        original = parse_length(original_length)
    else:
        original = int(scaling.get("original_max_position_embeddings") or own_length(config))
        if original >= trained and class_and_options(method)[0].name != get_method(None).name:
            raise ValueError(
                f"adopt=true: the config says a window of {original} tokens, which is not shorter "
                f"than trained_length={trained}, so the window before extension is unknown. Add "
                "original_length=N (4096 for Llama-2)."
            )
    base = _unscaled(config)
    base.max_position_embeddings = original
    _keep_searched(base, scaling)
    # defaults such as a factor come from the trained length, not from the one asked for now
    chosen = get_method(method, **{**options, "length": trained}).resolve(base)
    stated = chosen.options().get("factor")
    found = scaling.get("factor")
    if stated and found and abs(stated - found) > 1e-6 and not override:
        raise ValueError(
            f"adopt=true: the config has rope_type '{scaling['rope_type']}' with factor {found}, "
            f"but method={chosen.name} with factor {stated} was stated. State factor={found}, or "
            "add override=true if the config is wrong."
        )
    now = replace(chosen, length=parse_length(options.get("length") or trained))
    _, fresh = _with_record(chosen, base)
    return now, replace(fresh, trained_length=trained, adopted=True)


def _with_record(method: Method, base: PreTrainedConfig) -> tuple[Method, Record]:
    return method, Record(
        method=method.name,
        options=_plain(method.options()),
        original_length=own_length(base),
        rope_parameters=dict(getattr(base, "rope_parameters", None) or {}),
    )


def _has_option(method: MethodLike | None, option: str) -> bool:
    """Return whether a method or preset has an option of that name."""
    return option in {field.name for field in fields(class_and_options(method)[0])}


def _scaling(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the config's rope parameters if it has a scaling, else {}."""
    parameters = rope_settings(config)
    return parameters if parameters.get("rope_type") in SCALINGS else {}


def _require_scaled(config: PreTrainedConfig) -> None:
    if not _scaling(config):
        raise ValueError(
            "override=true replaces recorded options or a scaling in the config; this checkpoint "
            "has neither. Leave out override."
        )


def _unscaled(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a copy without the config's own scaling, its window the one before it."""
    base = copy.deepcopy(config)
    parameters = rope_settings(base)
    original = parameters.get("original_max_position_embeddings")
    kept = {k: v for k, v in parameters.items() if k not in _OF_SCALINGS}
    if "llama_4_scaling_beta" in kept and original:  # Ministral's queries grow with this window
        kept["original_max_position_embeddings"] = original
    set_rope_settings(base, {**kept, "rope_type": "default"})
    if original:
        base.max_position_embeddings = int(original)
    return base


_OF_SCALINGS = {
    *("type", "rope_type", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
    *("mscale", "mscale_all_dim", "attention_factor", "low_freq_factor", "high_freq_factor"),
    *(
        "long_factor",
        "short_factor",
        "short_mscale",
        "long_mscale",
        "truncate",
        "alpha",
        "finetuned",
    ),
    "max_position_embeddings",
}
"""Entries of `rope_parameters` that belong to a scaling."""


def _keep_searched(base: PreTrainedConfig, scaling: dict[str, Any]) -> None:
    """Let a model keep the divisors that were searched for it: they are part of the model."""
    kept = {key: scaling[key] for key in ("long_factor", "short_factor") if scaling.get(key)}
    if kept:
        set_rope_settings(base, {**rope_settings(base), **kept})


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Return options as JSON gives them back (tuples as lists)."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}


def _brief(values: dict[str, Any]) -> str:
    shown = {k: v for k, v in values.items() if not isinstance(v, (list, dict)) and v is not None}
    return ", ".join(f"{k}={v}" for k, v in shown.items()) or "no options"
