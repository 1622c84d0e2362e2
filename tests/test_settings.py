"""Settings: what a dataclass declares is what a user may give."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxbench.core.settings import (
    Count,
    Length,
    NotNegative,
    Numbers,
    Range,
    Share,
    Tokens,
    Whole,
    check_keys,
    field_texts,
    parse_pairs,
    read_settings,
    read_values,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Of a list."""

    steps: Count
    name: str = "x"


@dataclass(frozen=True, kw_only=True)
class Outer:
    """One field of every kind.

    Attributes:
        number: has a text
            of two lines.
        whole: has one.
    """

    number: float = 1.0
    whole: int = 1
    yes: bool = False
    text: str = "x"
    kind: Literal["one", "two"] = "one"
    length: Length | None = None
    tokens: Tokens = 5
    share: Share = 0.5
    rate: NotNegative = 0.0
    seed: Whole = 0
    tens: Annotated[int, Range(least=10, multiple_of=10)] = 10
    names: tuple[str, ...] = ()
    lengths: tuple[Length, ...] = ()
    numbers: Numbers | None = None
    inner: tuple[Inner, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    several: int | str | None = None
    group: str = field(default="g", metadata={"key": "class"})


TYPED = [
    ("number", 2, 2.0),
    ("length", "32k", 32768),
    ("length", None, None),
    ("tokens", "0.5M", 500_000),
    ("names", ["a", "b"], ("a", "b")),
    ("lengths", ["1k", 5], (1024, 5)),
    ("numbers", [1, 2.5], (1.0, 2.5)),
    ("inner", [{"steps": 2}], (Inner(steps=2),)),
    ("options", {"a": 1}, {"a": 1}),
    ("several", "a", "a"),
    ("tens", 30, 30),
]
SPELT = [
    ("number", "2e-5", 2e-5),
    ("whole", "8", 8),
    ("whole", "1e9", 10**9),
    ("whole", 8.0, 8),
    ("whole", str(2**60 + 1), 2**60 + 1),
    ("yes", "False", False),
    ("names", "a", ("a",)),
    ("lengths", "1k", (1024,)),
    ("text", 2024, "2024"),
    ("length", "None", None),
]


@pytest.mark.parametrize(("name", "value", "typed"), TYPED)
@pytest.mark.parametrize("text", [False, True])
def test_values_are_typed(name, value, typed, text):
    found = getattr(read_settings(Outer, {name: value}, text=text), name)
    assert (found, type(found)) == (typed, type(typed))


@pytest.mark.parametrize(("name", "value", "typed"), SPELT)
def test_values_as_typed_on_a_command_line(name, value, typed):
    found = getattr(read_settings(Outer, {name: value}, text=True), name)
    assert (found, type(found)) == (typed, type(typed))
    with pytest.raises(ValueError, match=f"{name}={value!r} is not allowed"):
        read_settings(Outer, {name: value})


REFUSED = [
    ("number", "much", "a number"),
    ("number", True, "a number"),
    ("number", math.nan, "a number"),
    ("number", "inf", "a number"),
    ("number", None, "a number"),
    ("number", [1.0], "a number"),
    ("whole", 1.5, "a whole number"),
    ("whole", False, "a whole number"),
    ("whole", "1.5", "a whole number"),
    ("whole", 10**400, "a whole number"),
    ("whole", "1e400", "a whole number"),
    ("yes", 1, "true or false"),
    ("yes", "perhaps", "true or false"),
    ("text", None, "text"),
    ("text", True, "text"),
    ("kind", "three", "'one' or 'two'"),
    ("kind", ["one"], "'one' or 'two'"),
    ("length", "32kb", "a number of tokens such as 32768, or 32k or nothing"),
    ("length", -1, "a number of tokens"),
    ("length", True, "a number of tokens"),
    ("tokens", 0, "a number of tokens such as 655360, 0.5M or 1B"),
    ("share", 1.01, "a number of at least 0 and at most 1"),
    ("rate", -1e-9, "a number of at least 0"),
    ("seed", -1, "a whole number of at least 0"),
    ("tens", 0, "a whole number of at least 10 and a multiple of 10"),
    ("tens", 15, "a multiple of 10"),
    ("names", [1, None], "a list, of text"),
    ("lengths", ["4q"], "a list, of a number of tokens"),
    ("numbers", ["a"], "a list of numbers, or the path of a JSON file with one or nothing"),
    ("options", [1], "a mapping"),
    ("several", 1.5, "a whole number or text or nothing"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), REFUSED)
@pytest.mark.parametrize("text", [False, True])
def test_values_are_refused_in_three_parts(name, value, allowed, text):
    if text and (name, value) == ("several", 1.5):
        assert read_settings(Outer, {name: value}, text=True).several == "1.5"
        return
    with pytest.raises(ValueError, match=r"^Here: ") as caught:
        read_settings(Outer, {name: value}, "Here", text=text)
    said = str(caught.value)
    assert f"Here: {name}={value!r} is not allowed; it must be " in said
    assert allowed in said
    assert said.endswith("Change it or leave it out.")


def test_keys():
    with pytest.raises(ValueError, match=r"'lenght' is not a setting; did you mean length.*Allow"):
        read_settings(Outer, {"lenght": 1})
    assert read_settings(Outer, {"lenght": 1, "whole": 2}, strict=False).whole == 2
    assert read_settings(Outer, {"class": "c"}).group == "c"
    with pytest.raises(ValueError, match="'group' is not a setting"):
        read_settings(Outer, {"group": "c"})
    with pytest.raises(ValueError, match=r"This is \[\]; it must be a mapping"):
        read_settings(Outer, [], "This")
    with pytest.raises(ValueError, match=r"'a' is not a setting.*Allowed: none"):
        check_keys(["a"], [])


def test_what_is_inside_says_where():
    with pytest.raises(ValueError, match=r"Here, inner has no 'steps'\. It needs steps\. Add it"):
        read_settings(Outer, {"inner": [{}]}, "Here")
    with pytest.raises(ValueError, match=r"inner: steps=0 is not allowed.*Change it\.$"):
        read_settings(Outer, {"inner": [{"steps": 0}]})


def test_only_what_was_given_is_returned():
    assert read_values(Outer, {"whole": 3}) == {"whole": 3}
    assert read_values(Outer, {}) == {}


def test_numbers_may_be_in_a_file(tmp_path):
    (tmp_path / "a.json").write_text("[1, 2]")
    assert read_settings(Outer, {"numbers": str(tmp_path / "a.json")}).numbers == (1.0, 2.0)
    with pytest.raises(FileNotFoundError, match="cannot be read"):
        read_settings(Outer, {"numbers": "none.json"})


def test_pairs():
    given = ["a=1", "b=true", "c=x=y"]
    assert parse_pairs(given, "--option") == {"a": "1", "b": True, "c": "x=y"}
    with pytest.raises(ValueError, match="not NAME=VALUE"):
        parse_pairs(["a"], "--option")


def test_texts_of_fields():
    assert field_texts(Outer) == {"number": "has a text of two lines.", "whole": "has one."}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.sampled_from([f.name for f in dataclasses.fields(Outer)]), JSON, st.booleans())
def test_any_value_is_typed_or_refused(name, value, text):
    try:
        read_settings(Outer, {name: value}, strict=False, text=text)
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
    else:
        message = "not allowed"
    assert any(words in message for words in ("not allowed", "cannot be read", "inner"))
