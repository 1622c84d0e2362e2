"""A method's own tensors in a checkpoint: their file, or among the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ctxbench.methods.base import Method
from ctxbench.methods.record import KEY

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def among_weights(
    path: str, model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return a method's tensors that `save_pretrained` put among the weights.

    Args:
        path: of the checkpoint; a hub id has none.
        model: with the method installed.
        tensors: of the method, by name.
    """
    from safetensors import safe_open

    names = {t.data_ptr(): name for name, t in model.state_dict(keep_vars=True).items()}
    wanted = {names[t.data_ptr()]: own for own, t in tensors.items() if t.data_ptr() in names}
    found = {}
    for file in sorted(Path(path).glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in wanted.keys() & set(opened.keys()):
                found[wanted[name]] = opened.get_tensor(name)
    return found


def was_saved_with(path: str, method: Method) -> bool:
    """Return whether a folder's config.json says that it was saved with a method."""
    file = Path(path) / "config.json"
    if not file.is_file():
        return False
    record = json.loads(file.read_text(encoding="utf-8")).get(KEY) or {}
    return record.get("method") == method.name
