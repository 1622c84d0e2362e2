"""A checkpoint for other engines: the method as a `rope_type` that they all know.

What a method computes is its table of frequencies by request length. Where that table is constant
up to the window, or has one step at the original window, a stock type says it: `default` with
another base, `linear`, `yarn`, `llama3`, or `longrope` with one divisor per pair. What is written
follows from the table, not from a method's name.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxbench.core.assets import resolve_model
from ctxbench.core.atomic_file import new_folder
from ctxbench.core.older_names import add_older_names
from ctxbench.methods.base import Method, describe
from ctxbench.methods.record import base_config, original_length
from ctxbench.methods.rotary import (
    PositionMethod,
    inverse_frequencies,
    rotary_base,
    rotary_dim,
)
from ctxbench.models.choosing import choose_method
from ctxbench.models.loading import STATE_FILE, edited_config, load_config

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

PHASE_ERROR = 1e-6
"""Radians that a stock type may differ from the method's float64 frequencies at `FAR`."""
FAR = 262_144
"""Position at which it is measured."""

_NOT_COPIED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".msgpack", ".h5")
"""Files that hold pickles, or weights of other frameworks."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: the checkpoint.
        rope_parameters: of its config.
        notes: sentences about where engines may differ.
    """

    folder: Path
    rope_parameters: dict[str, Any]
    notes: tuple[str, ...]


def export_checkpoint(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    method: str | None = None,
    *,
    revision: str | None = None,
    **options: Any,
) -> Exported:
    """Write a checkpoint that computes a method without ctxbench.

    Weights are copied as they are and never loaded.

    Args:
        checkpoint: folder, hub id, or the bundled `mini`.
        output: a folder that does not exist or is empty.
        method: name or preset; None: what the checkpoint's record says.
        revision: of a hub id.
        options: `length` and the method's options, as for `load_model`.

    Raises:
        ValueError: no stock type computes this method; the message says why and what to do.
        FileNotFoundError: no such checkpoint.
    """
    path, folder = resolve_model(str(checkpoint)), Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} is there already and not empty. An export goes into a new folder. Give "
            "another one, or remove it."
        )
    config = load_config(path, revision=revision)
    chosen, record = choose_method(config, method, **options)
    source = _local_copy(path, revision)
    if (source / STATE_FILE).exists():
        raise _cannot(
            chosen,
            f"it has trained tensors of its own ({STATE_FILE}), which no rope_type holds",
            "Run it with --model ctxext or ctxbench.load_model",
        )
    rope = standard_rope(config, chosen)
    edited_config(config, chosen, record)
    config.rope_parameters = rope
    if hasattr(config, "original_max_position_embeddings"):  # Phi-3's goes before the rope's own
        config.original_max_position_embeddings = record.original_length
    with new_folder(folder) as building:
        _copy_files(source, building)
        config.save_pretrained(building)
        _add_older_names(building / "config.json")
    return Exported(folder, rope, tuple(_notes(rope, config)))


def standard_rope(config: PreTrainedConfig, method: Method) -> dict[str, Any]:
    """Return the stock `rope_parameters` that compute a resolved method up to its length.

    Args:
        config: of the model, extended or not.
        method: resolved, for this model.

    Raises:
        ValueError: there are none.
    """
    base = base_config(config)
    if not isinstance(method, PositionMethod):
        raise _cannot(
            method,
            "it changes what tokens attend to, or feeds other tokens, and a rope_type sets only "
            "rotary frequencies",
            "Run it with --model ctxext, or export pi, yarn or ntk",
        )
    stock = method.accepted_stock(base)
    if stock is not None:
        return {**base.rope_parameters, **stock, **_attention_keys(stock)}
    original, length = original_length(base), int(method.length or 0)
    short, scale = _constant(method, base, 1, min(original, length))
    long, long_scale = (
        _constant(method, base, original + 1, length) if length > original else (short, scale)
    )
    if scale != long_scale:
        raise _cannot(method, *_FOLLOWS_LENGTH)
    if scale == 1 and (rope := _as_base(base, short, long)):
        return rope
    return _as_divisors(base, short, long, scale, length / original)


_FOLLOWS_LENGTH = (
    "its frequencies follow the length of each request, and a rope_type has one set, or two",
    "Fix them: for dynamic_ntk give floor=N with N at least the length, or use ntk or yarn with a "
    "factor; or run it with --model ctxext",
)


def _constant(
    method: PositionMethod, config: PreTrainedConfig, first: int, last: int
) -> tuple[torch.Tensor, float]:
    """Return the frequencies of all request lengths from `first` to `last`.

    Raises:
        ValueError: they differ. (Lengths in between are looked at in six places.)
    """
    lengths = sorted({first + (last - first) * part // 6 for part in range(7)} | {last})
    tables = [method.frequencies(config, length) for length in lengths]
    frequencies, scale = tables[-1]
    for other, other_scale in tables:
        if other_scale != scale or _phase_error(other, frequencies) > PHASE_ERROR:
            raise _cannot(method, *_FOLLOWS_LENGTH)
    return frequencies, scale


def _phase_error(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the largest difference of two sets of frequencies at `FAR`, radians."""
    return float((first - second).abs().max()) * FAR


def _as_base(
    config: PreTrainedConfig, short: torch.Tensor, long: torch.Tensor
) -> dict[str, Any] | None:
    """Return another base, if the frequencies are those of one."""
    dim = rotary_dim(config)
    base = float(long[-1]) ** (-dim / (dim - 2))
    found = inverse_frequencies(dim, base)
    if max(_phase_error(found, short), _phase_error(found, long)) > PHASE_ERROR:
        return None
    return {**config.rope_parameters, "rope_type": "default", "rope_theta": base}


def _as_divisors(
    config: PreTrainedConfig, short: torch.Tensor, long: torch.Tensor, scale: float, factor: float
) -> dict[str, Any]:
    """Return `longrope` with the divisors that make these frequencies of the model's own."""
    own = inverse_frequencies(rotary_dim(config), rotary_base(config))
    rope = {
        "rope_type": "longrope",
        "short_factor": (own / short).tolist(),
        "long_factor": (own / long).tolist(),
        "factor": max(factor, 1.0),
        "attention_factor": float(scale),
        "original_max_position_embeddings": original_length(config),
    }
    return {**config.rope_parameters, **rope, **_attention_keys(rope)}


def _attention_keys(rope: dict[str, Any]) -> dict[str, Any]:
    """Return vLLM's names of an attention factor (get_rope in its rotary_embedding/__init__.py).

    It computes the factor itself unless these are given; for yarn its own is a multiplier.
    """
    given, factor = rope.get("attention_factor"), rope.get("factor", 1.0)
    if rope.get("rope_type") == "yarn":
        own = 0.1 * math.log(factor) + 1.0
        return {} if given is None else {"attn_factor": given / own}
    if rope.get("rope_type") == "longrope":
        own = math.sqrt(1 + math.log(factor) / math.log(rope["original_max_position_embeddings"]))
        same = given is None or math.isclose(given, own, rel_tol=1e-12)
        return {} if same else {"short_mscale": given, "long_mscale": given}
    return {}


def _cannot(method: Method, why: str, instead: str) -> ValueError:
    return ValueError(
        f"{describe(method)} cannot be exported: {why}. Standard configurations are another base, "
        f"linear, yarn, llama3 and longrope. {instead}."
    )


def _local_copy(path: str, revision: str | None) -> Path:
    """Return the folder of a checkpoint, downloading a hub id's.

    Raises:
        ValueError: its weights are pickles.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(
            snapshot_download(
                path, revision=revision, ignore_patterns=[f"*{s}" for s in _NOT_COPIED]
            )
        )
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{path} has no .safetensors weights. Pickled weights are not copied. Load and save "
            "the model once with transformers' save_pretrained, and export that."
        )
    return folder


def _copy_files(source: Path, folder: Path) -> None:
    for file in sorted(source.iterdir()):
        if file.is_file() and not file.name.endswith(_NOT_COPIED) and file.name != "config.json":
            shutil.copyfile(file, folder / file.name)


def _add_older_names(file: Path) -> None:
    saved = add_older_names(json.loads(file.read_text(encoding="utf-8")))
    file.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _notes(rope: dict[str, Any], config: PreTrainedConfig) -> list[str]:
    notes = []
    if rope["rope_type"] == "longrope" and rope["short_factor"] != rope["long_factor"]:
        notes.append(
            "An engine chooses between the two sets by the tokens so far (transformers) or by its "
            "largest length (vLLM); ctxbench by the final length of each request."
        )
    if rope["rope_type"] == "longrope" and (rope.get("partial_rotary_factor") or 1) != 1:
        notes.append("vLLM knows longrope for heads that are rotated whole only.")
    window = getattr(config, "sliding_window", None)
    if window:
        notes.append(f"The model attends within {window} tokens (sliding_window), as before.")
    return notes
