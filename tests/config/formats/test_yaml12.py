"""YAML 1.2 plain scalars."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_clap.config.formats.yaml12 import InvalidYamlError, dump_yaml, load_yaml, parse_scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-3", -3),
        ("007", 7),
        ("0x1f", 31),
        ("0o17", 15),
        ("1_000", 1000),
        (".inf", math.inf),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        ("2001-12-14t21:59:43Z", "2001-12-14t21:59:43Z"),
        ("=", "="),
        ("<<", "<<"),
        ("a b", "a b"),
    ],
)
def test_plain_scalars_are_read_as_the_core_schema_says_in_a_file_and_alone(text, value):
    for found in (parse_scalar(text), load_yaml(f"key: {text}")["key"]):
        assert found == value
        assert type(found) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_that_python_prints_is_read_back(number):
    assert math.isclose(parse_scalar(repr(number)), number, rel_tol=0, abs_tol=0)


TEXT = st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" "))  # printable


PLAIN = st.one_of(
    st.integers(-(2**63), 2**63), st.floats(allow_nan=False), st.booleans(), TEXT, st.none(),
    st.sampled_from(["0x1f", "0o17", "1_0", "1e-4", "yes", "12:30", "2024-01-01", "=", "<<", "~", "a\nb\n", "\x1b"]),
)  # fmt: skip


@given(st.dictionaries(TEXT, st.recursive(PLAIN, st.lists, max_leaves=4), max_size=4))
def test_what_the_dumper_writes_is_read_back(tree):
    assert load_yaml(dump_yaml(tree)) == tree


def test_the_dumper_keeps_the_order_of_keys_and_repeats_what_is_shared():
    shared = [1, 2]
    assert dump_yaml({"b": shared, "a": shared}) == "b:\n- 1\n- 2\na:\n- 1\n- 2\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: secret\n", "line 3: the key 'a' stands twice; keep one"),
        ("a: {b: 1, 'b': secret}", "line 1: the key 'b' stands twice; keep one"),
        ("a: 1\n1: secret\n", "line 2: the key '1' is not text"),
        ("a: 1\n---\nb: 2\n", "line 2: "),
        ("a: [1, 2", "line 1: "),
        ("a: \x00", "line 1: the control character U+0000"),
    ],
)
def test_a_refusal_names_the_line_and_shows_no_value(text, message):
    with pytest.raises(InvalidYamlError) as error:
        load_yaml(text)
    assert str(error.value).startswith(message)
    assert "secret" not in str(error.value)


def test_aliases_are_followed():
    assert load_yaml("a: &a [1, 2]\nb: *a\n") == {"a": [1, 2], "b": [1, 2]}
