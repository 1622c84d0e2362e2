"""NLTK's sentence splitter without half of scientific Python, and with parameters from a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ctxbench.core.compat.foreign import Foreign, Library, Mention

if TYPE_CHECKING:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

NLTK = Library("nltk", "3.10", "nltk>=3.10,<3.11")

_WHY = "find the borders of sentences as RULER does"
_FIELDS = ("collocations", "sent_starters", "abbrev_types", "ortho_context")
ENTRIES = (
    Foreign(NLTK, "nltk.tokenize.punkt", "PunktTokenizer", _WHY),
    Foreign(NLTK, "nltk.tokenize.punkt", "PunktSentenceTokenizer.span_tokenize", _WHY),
    *(
        Mention(NLTK, "nltk.tokenize.punkt", "PunktParameters.__init__", _WHY, field)
        for field in _FIELDS
    ),
)


def leave_scipy_out() -> None:
    """Let NLTK do without scipy, which punkt never uses; for a process that does nothing else."""
    sys.modules["scipy"] = None  # type: ignore[assignment]


def english_splitter(folder: str) -> PunktSentenceTokenizer:
    """Return punkt for English.

    Args:
        folder: of punkt's parameters, which NLTK itself refuses to read outside of its own search
            path; empty to look there.
    """
    from nltk.tokenize import punkt

    if not folder:
        return punkt.PunktTokenizer("english")
    lines = {path.stem: path.read_text("utf-8").splitlines() for path in Path(folder).iterdir()}
    parameters = punkt.PunktParameters()
    parameters.collocations = {tuple(line.split("\t")) for line in lines["collocations"]}
    parameters.sent_starters = set(lines["sent_starters"])
    parameters.abbrev_types = set(lines["abbrev_types"])
    for line in lines["ortho_context"]:
        word, context = line.split("\t")
        parameters.ortho_context[word] = int(context)
    return punkt.PunktSentenceTokenizer(parameters)
