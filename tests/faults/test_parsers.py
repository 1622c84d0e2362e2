"""Parsers read anything or say what is allowed."""

import re
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxbench.core.lengths import parse_length, parse_tokens
from ctxbench.methods.registry import get_method, list_methods
from ctxbench.models.answers import AnswerCache
from ctxbench.train.recipes import read_recipe
from ctxbench.train.sources import parse_source


def says(error: Exception, pattern: str) -> None:
    assert re.search(pattern, str(error)), error


VALUES = st.one_of(
    st.text(max_size=12),
    st.text("0123456789kmbtKMBT._-+eE@:=, infa", max_size=10),
    st.integers(),
    st.floats(),
    st.none(),
    st.booleans(),
    st.lists(st.one_of(st.floats(), st.text(max_size=3), st.none()), max_size=3),
)


@given(VALUES)
def test_any_text_is_a_length_or_an_error(value):
    try:
        assert parse_length(value) > 0
    except ValueError as error:
        says(error, "is not a length. Allowed")


@given(VALUES)
def test_any_text_is_a_number_of_tokens_or_an_error(value):
    try:
        assert parse_tokens(value) > 0
    except ValueError as error:
        says(error, "is not a number of tokens. Allowed")


@settings(max_examples=100)
@given(st.sampled_from(list_methods()), st.data())
def test_any_option_is_taken_or_refused_in_three_parts(name, data):
    known = [*get_method(name).options(), "length", "x"]
    option = data.draw(st.sampled_from(known))
    try:
        get_method(name, **{option: data.draw(VALUES)})
    except (ValueError, FileNotFoundError) as error:
        says(error, "is not allowed|is not a setting|cannot be read")
        says(error, "Give|Change it|Allowed")


@given(st.one_of(st.text(max_size=20), st.text("a/.@0123456789e+-:=,", max_size=20)))
def test_any_text_is_a_source_or_an_error(text):
    try:
        source = parse_source(text)
    except ValueError as error:
        says(error, "is not a positive number. Write for example|names nothing. It must be")
    else:
        assert 0 < source.weight < float("inf")
        assert all(isinstance(value, str) for value in source.options.values())


@given(st.one_of(st.text(max_size=20), st.text("./a\\\x00yml", max_size=12), st.just("x" * 5000)))
def test_any_text_is_a_recipe_or_an_error(name):
    with pytest.raises((FileNotFoundError, ValueError), match=r"no recipe|mapping|YAML"):
        read_recipe(name)


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_an_answer_cache_or_an_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("answers")
    (folder / "answers-m.sqlite").write_bytes(content)
    try:
        AnswerCache(folder, "m").database.close()
    except ValueError as error:
        says(error, "Delete the file|cannot be used")
    except sqlite3.Error as error:
        pytest.fail(f"SQLite's own error: {error}")
