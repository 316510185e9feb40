"""YAML 1.2 plain scalars."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_clap.config.yaml12 import dump_yaml, load_yaml, parse_scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-3", -3),
        ("007", 7),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("12:30:00", "12:30:00"),
        ("0x10", "0x10"),
        ("2024-01-01", "2024-01-01"),
        ("a b", "a b"),
    ],
)
def test_plain_scalars(text, value):
    assert parse_scalar(text) == value
    assert type(parse_scalar(text)) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_that_python_prints_is_read_back(number):
    assert math.isclose(parse_scalar(repr(number)), number, rel_tol=0, abs_tol=0)


TEXT = st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" "))  # printable


@given(st.dictionaries(TEXT, st.one_of(st.integers(), st.booleans(), TEXT, st.none()), max_size=4))
def test_what_the_dumper_writes_is_read_back(tree):
    assert load_yaml(dump_yaml(tree)) == tree
