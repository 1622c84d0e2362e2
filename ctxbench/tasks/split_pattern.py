r"""Which neighbours a pre-tokenizer's regular expression may keep in one piece.

Counting tokens by parts needs two facts of an expression: no match holds a given pair of characters
side by side, and some character is always inside a match. Both are read off its alternatives: a
match is made of characters that follow each other in the alternative's atoms, so a pair that no two
neighbouring atoms can make is never inside a match, whatever the text. As every way to match stays
on one side of such a pair, nothing beyond it changes what is matched before it.

Understood is what published tokenizers use: characters, classes, one level of groups, quantifiers,
and `(?!\S)` or `$` behind white space. Anything else is not understood, and nothing is claimed of
it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from string import ascii_lowercase, digits

OTHER, WHITE = "\0", "\n"
"""Stand for any other visible character, and any white space but the space."""
LETTERS, DIGITS = frozenset(ascii_lowercase), frozenset(digits)
CHARACTERS = LETTERS | DIGITS | {"-", " ", OTHER, WHITE}
"""All that is told apart."""

_SPACES, _OTHER = frozenset({" ", WHITE}), frozenset({OTHER})
_CATEGORIES = {
    **dict.fromkeys(("L", "Ll"), LETTERS | _OTHER),
    **dict.fromkeys(("N", "Nd"), DIGITS | _OTHER),
    **dict.fromkeys(("P", "Pd"), _OTHER | {"-"}),
    **dict.fromkeys(("Lu", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "Nl", "No"), _OTHER),
    **dict.fromkeys(("Pc", "Ps", "Pe", "Pi", "Pf", "Po"), _OTHER),
    **dict.fromkeys(("S", "Sm", "Sc", "Sk", "So"), _OTHER),
}
_ESCAPES = {
    "s": _SPACES,
    "S": CHARACTERS - _SPACES,
    "d": _CATEGORIES["N"],
    "w": LETTERS | DIGITS | _OTHER,
    **dict.fromkeys("rntfv", frozenset({WHITE})),
}
_ATOM = re.compile(
    r"""(?: \((?:\?(?P<flags>i?):)?(?!\?)(?P<group>[^()]+)\)
          | \[(?P<not>\^?)(?P<class>(?:\\.|(?!&&)[^\[\]\\])+)\]
          | (?P<one>\\p\{\w+\}|\\.|[^\\()\[\]{}|?*+^$.])
        )(?P<times>[?*+]|\{\d+(?:,\d*)?\})?(?P<mode>[?+]?)""",
    re.VERBOSE | re.DOTALL,
)
_ITEM = re.compile(r"\\p\{(\w+)\}|\\([a-zA-Z0-9])|(\\\W|[^\\])(?:-(\\\W|[^\\]))?")
_AT_THE_END = re.compile(r"\(\?!\\S\)|\$")


class _Unknown(Exception):
    """The expression holds something that is not understood."""


@dataclass(frozen=True)
class Pieces:
    """What is known of the pieces a pre-tokenizer cuts.

    Attributes:
        pairs: neighbours that may stand in one match, out of `CHARACTERS`.
        matched: characters that are always inside a match, wherever they stand.
    """

    pairs: frozenset[tuple[str, str]] = frozenset()
    matched: frozenset[str] = frozenset()


ANYTHING = Pieces(frozenset(product(CHARACTERS, CHARACTERS)))
"""Nothing is known."""


@dataclass(frozen=True)
class _Atom:
    characters: frozenset[str]
    least: int
    repeats: bool
    possessive: bool


def read_pattern(pattern: str) -> Pieces:
    """Return what is known of an expression's matches; `ANYTHING` if it is not understood."""
    try:
        alternatives = _alternatives(pattern)
    except _Unknown:
        return ANYTHING
    return Pieces(
        frozenset(pair for atoms, _ in alternatives for pair in _pairs(atoms)),
        frozenset(c for atoms, looks in alternatives if not looks for c in _alone(atoms)),
    )


def _alternatives(pattern: str, ignore_case: bool = False) -> list[tuple[list[_Atom], bool]]:
    """Return the atoms of every alternative, and whether it looks ahead."""
    found: list[tuple[list[_Atom], bool]] = [([], False)]
    place = 0
    while place < len(pattern):
        atoms, looks = found[-1]
        if pattern[place] == "|":
            found.append(([], False))
            place += 1
        elif looks:  # only at the end
            raise _Unknown
        elif end := _AT_THE_END.match(pattern, place):
            if not all(atom.characters <= _SPACES for atom in atoms):
                raise _Unknown
            found[-1] = (atoms, True)
            place = end.end()
        elif atom := _ATOM.match(pattern, place):
            atoms.append(_atom(atom, ignore_case))
            place = atom.end()
        else:
            raise _Unknown
    if not all(any(atom.least for atom in atoms) for atoms, _ in found):
        raise _Unknown  # it would match nothing at all
    return found


def _atom(found: re.Match[str], ignore_case: bool) -> _Atom:
    times = found["times"] or ""
    least = 0 if times in ("?", "*") else int(re.findall(r"\d+", times + "1")[0])
    repeats = times not in ("", "?")
    possessive = found["mode"] == "+"
    if (group := found["group"]) is not None:
        inside = _alternatives(group, ignore_case or found["flags"] == "i")
        if any(looks for _, looks in inside):
            raise _Unknown
        # Its parts in any order: more than it can match, never less.
        characters = frozenset(c for atoms, _ in inside for atom in atoms for c in atom.characters)
        return _Atom(characters, 2 * least, True, possessive)
    characters = _class(found["class"] or found["one"], ignore_case)
    if found["not"]:
        characters = CHARACTERS - characters | {OTHER, WHITE}
    return _Atom(characters, least, repeats, possessive)


def _class(items: str, ignore_case: bool) -> frozenset[str]:
    """Return the characters of a class; it may seem to hold `OTHER` or `WHITE`, and not do so."""
    found: set[str] = set()
    place = 0
    while place < len(items):
        item = _ITEM.match(items, place)
        if item is None:
            raise _Unknown
        place = item.end()
        category, escape, first, last = item.groups()
        if category or escape:
            known = _CATEGORIES.get(category) if category else _ESCAPES.get(escape)
            if known is None:
                raise _Unknown
            found |= known | (LETTERS if ignore_case and category in ("Lu", "Lt") else set())
        else:
            found |= _range(first[-1], (last or first)[-1], ignore_case)
    return frozenset(found)


def _range(first: str, last: str, ignore_case: bool) -> set[str]:
    exact = CHARACTERS - {OTHER, WHITE}
    found = {c for c in exact if first <= c <= last}
    if ignore_case:
        found |= {c for c in LETTERS if first <= c.upper() <= last}
    if first != last or not found:
        found |= {WHITE} if first == last and first.isspace() else {OTHER, WHITE}
    return found


def _pairs(atoms: list[_Atom]) -> Iterable[tuple[str, str]]:
    for number, atom in enumerate(atoms):
        if atom.repeats:
            yield from product(atom.characters, atom.characters)
        for follower in atoms[number + 1 :]:
            yield from product(atom.characters, follower.characters)
            if follower.least:
                break


def _alone(atoms: list[_Atom]) -> frozenset[str]:
    """Return the characters each of which an alternative matches by itself."""
    needed = [number for number, atom in enumerate(atoms) if atom.least]
    if len(needed) != 1 or atoms[needed[0]].least > 1:
        return frozenset()
    taken = {c for a in atoms[: needed[0]] if a.possessive for c in a.characters}
    return atoms[needed[0]].characters - {OTHER, WHITE} - taken
