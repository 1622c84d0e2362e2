"""`ctxbench validate`: run the contract against a method or a task folder."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctxbench.core.errors import near_names
from ctxbench.core.settings import parse_pairs
from ctxbench.methods.registry import add_method_folder, list_methods, list_presets, methods_in
from ctxbench.tasks.leaf_files import tasks_path
from ctxbench.validate.checks import FAILED, Checks, place_of, report, run_checks


def add_parser(commands: Any) -> None:
    """Add `validate` to the parser of `ctxbench`."""
    parser = commands.add_parser(
        "validate", help="check a method or a task folder of your own against the contract"
    )
    parser.add_argument(
        "what",
        help="a method's name, a .py file of methods (or FILE:NAME), or a folder of task files",
    )
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="of the method"
    )
    parser.add_argument("--architecture", default="llama", help="of the tiny model (llama)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check what was named, print what was found; return 1 if anything failed.

    Raises:
        ValueError: there is nothing of that name.
    """
    given = parse_pairs(options.option, "--option")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all that is needed is here
    failed = False
    for what in subjects(options.what):
        checks, subject = find(what, given, options.architecture)
        with _quiet():
            title = _title(subject, what)
            outcomes = run_checks(checks, subject)
        print(title)
        print(report(outcomes))
        failed |= any(outcome.status == FAILED for outcome in outcomes)
    return int(failed)


def subjects(what: str) -> list[str]:
    """Return what to check one after another: the methods of a file, else what was given.

    Raises:
        ValueError: the file is not there or defines no such method.
    """
    file, colon, name = what.rpartition(":") if ".py:" in what else (what, "", "")
    if not file.endswith(".py"):
        return [what]
    if not Path(file).is_file():
        raise ValueError(f"There is no file {file}. Give the file that defines a method.")
    add_method_folder(Path(file).parent)
    found = methods_in(file)
    if not found:
        raise ValueError(
            f"{file} defines no method: there is no class with a name, as in class MyMethod("
            'PositionMethod, name="my_method"). See CONTRIBUTING.md.'
        )
    if colon and name not in found:
        raise ValueError(
            f"{file} defines no method {name!r}{near_names(name, found)} "
            f"Give one of {', '.join(found)}."
        )
    return [name] if colon else found


def find(what: str, options: dict[str, Any], architecture: str) -> tuple[Checks, Any]:
    """Return the checks and the subject for a method's name, or a task folder.

    Raises:
        ValueError: it is none of these; the message lists near names.
    """
    folder = tasks_path() / what if (tasks_path() / what).is_dir() else Path(what)
    if folder.is_dir():
        from ctxbench.validate import task_checks

        return task_checks.CHECKS, task_checks.Subject(folder.resolve())
    return _method(what, options, architecture)


def _method(what: str, options: dict[str, Any], architecture: str) -> tuple[Checks, Any]:
    (name, *_) = subjects(what)
    known = [*list_methods(), *list_presets()]
    if name not in known:
        raise ValueError(
            f"{what} is neither a method nor a task folder{near_names(what, known)} Give a name of "
            "`ctxbench ls`, a method's .py file, or a folder of task files."
        )
    from ctxbench.validate import method_checks, tiny
    from ctxbench.validate.method_subject import Subject

    kinds = list(tiny.ARCHITECTURES)
    if architecture not in kinds:
        raise ValueError(
            f"--architecture {architecture} is not known{near_names(architecture, kinds)} "
            f"Give one of {', '.join(kinds)}."
        )
    subject = Subject(name, options, architecture)
    return method_checks.CHECKS, subject


def _title(subject: Any, what: str) -> str:
    """Return what is checked; a subject that cannot be made at all is the user's first error."""
    try:
        return subject.title
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"{what} cannot be used at all: {type(error).__name__}: {error}{place_of(error)}. Mend "
            "that first; the checks need a method that begins, or task files that are read."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave the list of checks alone on the screen: no progress bars, no advice of libraries."""
    logging.disable(logging.WARNING)
    kept = os.dup(2)  # programs that are started write there, such as lm_eval's git
    os.dup2(nothing := os.open(os.devnull, os.O_WRONLY), 2)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        for handle in (kept, nothing):
            os.close(handle)
        logging.disable(logging.NOTSET)
