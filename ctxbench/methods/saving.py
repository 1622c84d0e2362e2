"""`save_pretrained` of an extended model: every reader computes its method, or refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxbench.core.older_names import add_older_names
from ctxbench.core.refused import PREFIX
from ctxbench.methods.extension import extension_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SaveExtended:
    """A model's `save_pretrained`, and what its config.json needs besides.

    So a loop of one's own, or another library's trainer, saves what `save_model` saves.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.save: Any = model.save_pretrained

    def __call__(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save; arguments as of transformers."""
        found = self.save(save_directory, *args, **kwargs)
        file = Path(save_directory) / "config.json"
        if file.is_file() and kwargs.get("is_main_process", True):
            _finish(file, self.model)
        return found


def _finish(file: Path, model: PreTrainedModel) -> None:
    """Add the names that older readers know, and a `rope_type` that all refuse where they must."""
    method = extension_of(model).method
    saved = json.loads(file.read_text(encoding="utf-8"))
    if not method.plain_checkpoint(model.config):
        scaling = saved.get("rope_parameters") or {}
        saved["rope_parameters"] = {**scaling, "rope_type": f"{PREFIX}method_{method.name}"}
    text = json.dumps(add_older_names(saved), indent=2, sort_keys=True) + "\n"
    file.write_text(text, encoding="utf-8")
