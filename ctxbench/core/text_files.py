"""Reading users' text files: what is damaged is named, with its line and what to do."""

from pathlib import Path
from typing import Any


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ValueError: it is no plain YAML, or no mapping.
    """
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file} is not plain YAML: {' '.join(str(error).split())}. It must hold names, "
            "numbers and texts; tags that make Python objects are refused. Correct it."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{file} is not a mapping but {type(found).__name__}. Write `key: value` lines."
        )
    return found
