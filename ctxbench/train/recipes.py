"""Recipes: YAML files of settings, shipped with the package."""

from pathlib import Path
from typing import Any

from ctxbench.assets import PACKAGE
from ctxbench.methods.options import near_names


def recipes_folder() -> Path:
    """Return the shipped recipes: inside an installed wheel, or beside the package in a checkout.

    Raises:
        FileNotFoundError: neither is there.
    """
    for folder in (PACKAGE / "_train" / "recipes", PACKAGE.parent / "train" / "recipes"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"The recipes are neither in {PACKAGE / '_train'} nor in {PACKAGE.parent / 'train'}. "
        "Reinstall ctxbench, or give --recipe a file of your own."
    )


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(file.stem for file in recipes_folder().glob("*.yaml"))


def read_recipe(recipe: str) -> dict[str, Any]:
    """Return the fields a recipe sets.

    Raises:
        FileNotFoundError: neither a shipped recipe nor a file.
        ValueError: not a mapping.
    """
    import yaml

    if Path(recipe).suffix in (".yaml", ".yml"):
        file = Path(recipe)
    else:
        file = recipes_folder() / f"{recipe}.yaml"
    if not file.is_file():
        known = list_recipes()
        raise FileNotFoundError(
            f"There is no recipe {recipe!r}{near_names(recipe, known)} Recipes: "
            f"{', '.join(known)}. Give one of these or a .yaml file."
        )
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{file} is not a mapping of fields to values. Write `lr: 2e-5` lines.")
    return found
