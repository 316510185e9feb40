"""Views: their names, and whose music is in them."""

from __future__ import annotations

import numpy as np
import pytest

from student_clap.store.layout.views import beneath, command_of, numbers, view_name, with_above


def test_a_view_is_called_after_what_it_is_of() -> None:
    assert (view_name("audiomuse", 0), view_name("audiomuse", 12)) == ("audiomuse", "audiomuse.view-12")


def test_which_track_is_beneath_is_the_same_for_ever() -> None:
    """It is part of the store's format."""
    assert [beneath(1, row) for row in range(12)] == [None, 0, 0, 0, 3, 4, 5, 4, None, None, None, 5]
    assert [beneath(2, row) for row in range(12)] == [None, None, None, 1, None, None, None, 5, 0, None, None, 2]
    assert [beneath(3, row) for row in (2_000, 4_000, 10**7)] == [None, 3_818, 9_999_875]
    assert numbers(1, 3, 2).tolist() == [0.01406863877696618, 0.13660820057173162]


def test_half_of_the_views_have_an_earlier_track_of_the_last_256_beneath() -> None:
    for view in (1, 7, 16):
        found = {row: other for row in range(1, 4001) if (other := beneath(view, row)) is not None}
        assert 1800 < len(found) < 2200
        assert all(1 <= row - other <= min(row, 256) for row, other in found.items())
        far = [row - other for row, other in found.items() if row > 256]
        # As often any of them: of some 1900 an eighth has 235.
        assert all(170 < n < 300 for n in np.histogram(far, 8, (0.5, 256.5))[0])
        assert beneath(view, 0) is None  # there is none before it


def test_views_of_a_track_have_different_ones_beneath() -> None:
    rows = range(1000, 1200)
    one, other = ([beneath(view, row) for row in rows] for view in (1, 2))
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    assert 25 < len(both) < 75
    assert sum(a == b for a, b in both) < 5


@pytest.mark.parametrize("n", [2, 3, 20])
def test_the_first_numbers_are_the_same_however_many_are_asked_for(n: int) -> None:
    np.testing.assert_array_equal(numbers(3, 9, 100)[:n], numbers(3, 9, n))
    assert ((numbers(3, 9, 1000) >= 0) & (numbers(3, 9, 1000) < 1)).all()


@pytest.mark.parametrize("view", [1, 2])
def test_the_views_that_a_track_is_in(view: int) -> None:
    """Its own, and those that have it beneath, as far as the rule reaches."""
    for row in (0, 4, 300):
        above = [other for other in range(700) if beneath(view, other) == row]
        assert with_above(view, [row], 700) == sorted({row, *above})
    assert with_above(0, [7, 3, 3], 700) == [3, 7]  # tracks have nothing beneath
    assert with_above(view, [699], 700) == [699]


def test_the_command_that_makes_a_view_is_named() -> None:
    assert command_of("audiomuse") == "student-clap featurize"
    assert command_of("audiomuse.view-1") == "student-clap featurize --teacher MODEL --views N"
