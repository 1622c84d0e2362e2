"""What a checkpoint that cannot be read says: which file, and what to do."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctxbench.core.errors import raised_by_us


@contextmanager
def explained(path: str, what: str = "weights") -> Iterator[None]:
    """Turn the errors of readers inside the block into one of ours.

    Args:
        path: folder or hub id that is being read.
        what: the part of it, for the message.

    Raises:
        ValueError: a file is damaged, or holds more than data.
        FileNotFoundError: a file is missing.
    """
    from safetensors import SafetensorError

    try:
        yield
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"The {what} of {path} are a pickle that holds more than tensors, which could run any "
            "program. Only tensors are read. Give a checkpoint in safetensors, or convert it where "
            "you trust it."
        ) from error
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, EOFError) as error:
        files = ", ".join(damaged_files(Path(path).expanduser())) or "a file"
        raise ValueError(
            f"The {what} of {path} cannot be read: {files} is damaged or cut short ({error}). "
            "Files must be as save_pretrained wrote them. Copy or download them again."
        ) from error
    except ImportError as error:
        raise ValueError(
            f"The {what} of {path} need a package that is not installed: "
            f"{str(error).splitlines()[0]} Install it, or leave out what asks for it (attention, "
            "attn_implementation, quantisation)."
        ) from error
    except OSError as error:
        if error.errno is not None:  # the system's, not transformers'
            raise
        raise FileNotFoundError(
            f"The {what} of {path} cannot be had: {str(error).splitlines()[0]} Give the whole "
            "folder that save_pretrained or ctxbench-train wrote, or a hub id."
        ) from error
    except Exception as error:  # whatever a stranger's files make readers do
        no_memory = isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__
        if raised_by_us(error) or no_memory:
            raise
        said = " ".join(str(error).split())[:300]
        raise ValueError(
            f"The {what} of {path} cannot be read ({type(error).__name__}: {said}). Its files must "
            "be as save_pretrained wrote them, and belong together. Copy or download them again, "
            "or install what the message names."
        ) from error


def damaged_files(folder: Path) -> list[str]:
    """Return the names of the files in a checkpoint folder whose format is broken."""
    from safetensors import SafetensorError, safe_open

    found = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError):
            found.append(file.name)
    for file in sorted(folder.glob("*.json")):
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            found.append(file.name)
    return found
