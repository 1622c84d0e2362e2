"""Needles in Paul Graham's essays for lm-eval: our grid, and the LCEG study's."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ctxbench.core.errors import named_for
from ctxbench.tasks import needle_grid
from ctxbench.tasks.needle_grid import DEPTHS, Frame, Grid, GridSettings
from ctxbench.tasks.niah import metrics, study
from ctxbench.tasks.niah.haystack import load_haystack
from ctxbench.tasks.niah.needles import draw, draw_lceg
from ctxbench.tasks.specs import SpecFile

# The study's prompt (Leooyii/LCEG@2150b59, needle/needle_in_haystack.py:319) and what it generates.
_HEAD = "This is a very long story book: <book> "
_TAIL = " </book>.\n Based on the content of the book, Question: {question}\nAnswer:"
_NEW_TOKENS = 50

LCEG_LENGTHS = tuple(int(n) for n in np.linspace(1000, 128000, 40).round().astype(int) if n < 64000)
"""Of the study's grid, tokens."""
GRIDS = {
    "niah": Grid("niah", Frame(_HEAD, _TAIL, " ", _NEW_TOKENS), load_haystack, draw),
    "niah_lceg": Grid(
        "niah_lceg",
        Frame(f"<|im_start|> {_HEAD}", _TAIL, "", _NEW_TOKENS, buffer=200),
        load_haystack,
        draw_lceg,
        samples=len(DEPTHS),
    ),
}


def load(ctx_length: int, ctx_grid: str = "niah", **metadata: Any) -> dict[str, Any]:
    """Return one task's samples; see `needle_grid.load`."""
    grid = GRIDS[ctx_grid]
    with named_for(grid.leaf(ctx_length)):
        metrics.check_packages()
        return _load(grid, ctx_length, metadata)


def _load(grid: Grid, ctx_length: int, metadata: dict[str, Any]) -> dict[str, Any]:
    if _as_the_study(grid, metadata):
        return study.load(grid, ctx_length, metadata)
    return needle_grid.load(grid, ctx_length, metadata, _settings(grid, metadata))


def doc_to_text(doc: dict) -> str:
    """Return a sample's prompt."""
    grid = GRIDS[doc["grid"]]
    return study.prompt(grid, doc) if "fidelity" in doc else needle_grid.prompt(grid, doc)


def _settings(grid: Grid, metadata: dict[str, Any]) -> GridSettings:
    settings = needle_grid.settings_of(grid, metadata)
    return replace(settings, seed=0) if grid.name == "niah_lceg" else settings  # nothing is drawn


def _as_the_study(grid: Grid, metadata: dict[str, Any]) -> bool:
    needle_grid.settings_of(grid, metadata)  # the other options must be right all the same
    return grid.name == "niah_lceg" and metadata.get("fidelity") == "lceg"


# ------------------------------------------------------------- `ctxbench data`

report_skips = needle_grid.report_skips


def leaf_name(grid: str, length: int) -> str:
    """Return the name of a task."""
    return GRIDS[grid].leaf(length)


def get_specs(
    grid: str,
    length: int,
    metadata: dict[str, Any],
    progress: Callable[[], object] = lambda: None,
) -> SpecFile:
    """Return the specs of one task, from the cache or made now."""
    found = GRIDS[grid]
    if _as_the_study(found, metadata):
        return study.get_specs(found, length, metadata, progress)
    return needle_grid.get_specs(found, length, metadata, _settings(found, metadata), progress)


def recount(found: SpecFile, tokenizer: str | None = None) -> None:
    """Write every prompt of a spec file and compare its tokens with those recorded."""
    grid = GRIDS["niah_lceg" if found.key["leaf"].startswith("niah_lceg") else "niah"]
    make = study if found.key["generator"] == study.VERSION else needle_grid
    make.recount(grid, found, tokenizer)
