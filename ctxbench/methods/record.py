"""The record that an extended model carries in its config: `config.ctxbench`.

It says which method with which options made the model, and what the model was before, so that a
checkpoint can be opened, judged and extended further without guessing.
"""

import copy
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ctxbench.core.own_window import SLIDING
from ctxbench.core.settings import Count, read_settings
from ctxbench.methods.rope_settings import own_length, rope_settings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

KEY = "ctxbench"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a config says about its extension.

    Attributes:
        method: registered name.
        options: every option of the method, resolved, without `length`.
        original_length: window of the model before extension, in tokens.
        trained_length: length it was trained at with this method, in tokens; None if it was not.
        rope_parameters: of the model before extension.
        adopted: the method was stated by a user for a checkpoint that had no record.
        overridden: recorded options that a user replaced, with their recorded values.
        layers: `full`: layers with a sliding window keep their angles; None: no such rule.
        version: of this schema.
    """

    method: str
    options: dict[str, Any]
    original_length: Count
    trained_length: Count | None = None
    rope_parameters: dict[str, Any] = field(default_factory=dict)
    adopted: bool = False
    overridden: dict[str, Any] = field(default_factory=dict)
    layers: str | None = None
    version: int = VERSION


def read_record(config: "PreTrainedConfig") -> Record | None:
    """Return the record of a config, None if it has none.

    Raises:
        ValueError: there is a record but it is damaged or of a newer version.
    """
    raw = getattr(config, KEY, None)
    if raw is None:
        return None
    return _parse(raw)


def write_record(config: "PreTrainedConfig", record: Record) -> None:
    """Put the record into the config; it is saved with it."""
    content = asdict(record)
    if record.layers is None:  # as earlier versions wrote it
        del content["layers"]
    setattr(config, KEY, content)


def original_length(config: "PreTrainedConfig") -> int:
    """Return the window before extension, in tokens: the `C` of the scaling formulas.

    Our record says it, or a scaling the model was published with, else it is the model's window.
    """
    record = read_record(config)
    if record is not None:
        return record.original_length
    published = rope_settings(config).get("original_max_position_embeddings")
    return int(published or own_length(config))


def layers_kept(config: "PreTrainedConfig") -> list[int]:
    """Return the numbers of layers that a method leaves alone: those with a sliding window."""
    record = read_record(config)
    if record is None or record.layers is None:
        return []
    return [n for n, kind in enumerate(config.layer_types) if kind == SLIDING]


def base_config(config: "PreTrainedConfig") -> "PreTrainedConfig":
    """Return the config as it was before extension; the same object if it was not extended."""
    record = read_record(config)
    if record is None:
        return config
    base = copy.deepcopy(config)
    delattr(base, KEY)
    base.max_position_embeddings = record.original_length
    if record.rope_parameters:
        base.rope_parameters = dict(record.rope_parameters)
    return base


def _parse(raw: Any) -> Record:
    if isinstance(raw, dict) and isinstance(raw.get("version"), int) and raw["version"] > VERSION:
        raise ValueError(
            f"The checkpoint's ctxbench record has version {raw['version']}; this ctxbench reads "
            f"up to {VERSION}. Install a newer ctxbench."
        )
    try:
        return read_settings(Record, raw, "the record")
    except ValueError as error:
        raise ValueError(
            f"The checkpoint's config.json has a damaged ctxbench record: {error} Restore "
            "config.json, or remove its 'ctxbench' entry and load with "
            "adopt=true,method=...,trained_length=..."
        ) from error
