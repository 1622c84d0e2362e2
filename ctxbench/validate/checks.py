"""A check, its outcome, and how a list of outcomes reads."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_OURS = Path(__file__).resolve().parents[1]
PASSED, FAILED, NOT_APPLICABLE = "passed", "failed", "does not apply"


class Broken(Exception):
    """What a check found wrong; its message says what was expected and what was found."""


class NotApplicable(Exception):
    """Why a check says nothing about this subject."""


@dataclass(frozen=True)
class Check:
    """One promise and how to find out whether it is kept.

    Attributes:
        name: short, unique.
        run: takes the subject; raises `Broken`, `NotApplicable`, or what the subject raises.
        remedy: what to do where it fails.
        basic: the checks after it say nothing where it fails.
    """

    name: str
    run: Callable[[Any], None]
    remedy: str
    basic: bool = False

    @property
    def promise(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]


@dataclass(frozen=True)
class Outcome:
    """What a check said.

    Attributes:
        check: that ran.
        status: `PASSED`, `FAILED` or `NOT_APPLICABLE`.
        detail: what was found, or why it does not apply.
    """

    check: Check
    status: str
    detail: str = ""


class Checks(dict[str, Check]):
    """Checks by name, in the order they are written; a function becomes one by `add`."""

    def add(
        self, remedy: str, *, basic: bool = False
    ) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
        """Return a decorator that adds a function under its name."""

        def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
            self[function.__name__] = Check(function.__name__, function, remedy, basic)
            return function

        return register


def run_check(check: Check, subject: Any) -> Outcome:
    """Run one check; an exception of the subject's is a failure with its place."""
    try:
        check.run(subject)
    except NotApplicable as reason:
        return Outcome(check, NOT_APPLICABLE, str(reason))
    except Broken as found:
        return Outcome(check, FAILED, str(found))
    except Exception as error:  # whatever code under test raises is a finding
        return Outcome(check, FAILED, f"{type(error).__name__}: {error}{place_of(error)}")
    return Outcome(check, PASSED)


def run_checks(checks: Checks, subject: Any) -> list[Outcome]:
    """Run checks in their order; after a basic one that failed the others wait."""
    outcomes: list[Outcome] = []
    waits = ""
    for check in checks.values():
        if waits:
            outcomes.append(Outcome(check, NOT_APPLICABLE, f"waits until {waits} is mended"))
            continue
        outcomes.append(run_check(check, subject))
        if check.basic and outcomes[-1].status == FAILED:
            waits = check.name
    return outcomes


def report(outcomes: Iterable[Outcome]) -> str:
    """Return the outcomes as text: one line each, and under a failure what to do."""
    outcomes = list(outcomes)
    width = max(len(outcome.check.name) for outcome in outcomes)
    lines = []
    for outcome in outcomes:
        shown = outcome.check.promise if outcome.status == PASSED else outcome.detail
        lines.append(f"  {outcome.status:<14}  {outcome.check.name:<{width}}  {shown}")
        if outcome.status == FAILED:
            lines.append(f"  {'':<14}  {'':<{width}}  What to do: {outcome.check.remedy}")
    counts = [f"{sum(o.status == s for o in outcomes)} {s}" for s in (PASSED, FAILED)]
    rest = sum(outcome.status == NOT_APPLICABLE for outcome in outcomes)
    counts += [f"{rest} {'does' if rest == 1 else 'do'} not apply"] if rest else []
    return "\n".join([*lines, ", ".join(counts)])


def place_of(error: BaseException) -> str:
    """Return ` (file:line)` of the innermost line that is the user's, else of any."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f
        for f in frames
        if "site-packages" not in f.filename and _OURS not in Path(f.filename).parents
    ]
    if not (own or frames):
        return ""
    frame = (own or frames)[-1]
    return f" ({Path(frame.filename).name}:{frame.lineno})"
