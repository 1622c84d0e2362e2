"""RULER's prompt texts: lm-eval's, as the official generator writes them."""

import functools
from dataclasses import dataclass

from ctxbench.core.compat.templates import RULER


@dataclass(frozen=True)
class Template:
    """The texts of one family.

    Attributes:
        body: with places for the haystack and the question.
        prefix: the answer's beginning, which always comes last.
    """

    body: str
    prefix: str


@functools.cache
def needle() -> str:
    """Return the needle's sentence, with `{type_needle_v}`, `{key}` and `{value}`."""
    return RULER["needle"].read()


@functools.cache
def noise() -> str:
    """Return the line that fills a noise haystack."""
    return RULER["noise"].read()


@functools.cache
def document() -> str:
    """Return how a document is written, with `{i}` and `{document}`."""
    return RULER["document"].read()


@functools.lru_cache
def template(family: str, misspelled: bool = False) -> Template:
    """Return the texts of a family: niah, vt, cwe, fwe or qa.

    lm-eval stores the prefixes without the space they begin with, and in `vt` keeps a misspelling
    of the paper's time ("assgined") that the official generator has corrected since; `misspelled`
    keeps it too (the LCEG study used it).
    """
    body, prefix = RULER[f"{family} template"].read(), RULER[f"{family} prefix"].read()
    if not misspelled:
        prefix = prefix.replace("assgined", "assigned")
    return Template(body, prefix if prefix.startswith(" ") else f" {prefix}")
