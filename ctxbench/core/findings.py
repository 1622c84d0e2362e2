"""What a look at an installation or a checkpoint finds."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes:
        mark: `ok`; `note`: something may be missed; `FAIL`: runs will not work.
        what: was looked at.
        text: was found, and what to do.
    """

    mark: Literal["ok", "note", "FAIL"]
    what: str
    text: str
