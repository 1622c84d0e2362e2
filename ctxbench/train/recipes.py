"""Recipes: YAML files of settings, and the rows of the paper, shipped with the package."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ctxbench.core.assets import PACKAGE
from ctxbench.core.errors import near_names, shown
from ctxbench.core.text_files import read_yaml


@dataclass(frozen=True)
class PaperRow:
    """A trained row of the paper's tables.

    Attributes:
        name: as `--recipe` takes it.
        row: the paper's name, and where it stands.
        recipe: what it is based on.
        fields: of its own, over the recipe's.
        differs: where the paper and its code disagree.
    """

    name: str
    row: str
    recipe: str
    fields: dict[str, Any]
    differs: str


@cache
def paper_rows() -> dict[str, PaperRow]:
    """Return the rows of the paper, by name."""
    rows = read_yaml(shipped_folder() / "rows.yaml")
    return {name: PaperRow(name, **row) for name, row in rows.items()}


def shipped_folder() -> Path:
    """Return recipes, rows and launch settings: inside a wheel, or beside the package.

    Raises:
        FileNotFoundError: neither is there.
    """
    for folder in (PACKAGE / "_train", PACKAGE.parent / "train"):
        if (folder / "recipes").is_dir():
            return folder
    raise FileNotFoundError(
        f"The recipes are neither in {PACKAGE / '_train'} nor in {PACKAGE.parent / 'train'}. "
        "Reinstall ctxbench, or give --recipe a file of your own."
    )


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(file.stem for file in (shipped_folder() / "recipes").glob("*.yaml"))


def read_recipe(recipe: str) -> dict[str, Any]:
    """Return the fields that a recipe, or a row of the paper over its recipe, sets.

    Raises:
        FileNotFoundError: neither a shipped recipe or row nor a file.
        ValueError: not a mapping.
    """
    if not isinstance(recipe, str):
        raise ValueError(
            f"recipe={shown(recipe)} is not allowed; it must be the name of a recipe, or a .yaml "
            "file. Change it or leave it out."
        )
    if row := paper_rows().get(recipe):
        return {**read_recipe(row.recipe), **row.fields}
    known = list_recipes()
    file = Path(recipe)
    if recipe in known:
        file = shipped_folder() / "recipes" / f"{recipe}.yaml"
    elif file.suffix not in (".yaml", ".yml") or not os.path.isfile(file):
        raise FileNotFoundError(
            f"There is no recipe {recipe[:200]!r}{near_names(recipe, [*known, *paper_rows()])} "
            f"Recipes: {', '.join(known)}, and the rows of `ctxbench ls rows`. Give one of these "
            "or a .yaml file."
        )
    return read_yaml(file)
