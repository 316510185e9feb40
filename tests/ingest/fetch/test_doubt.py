"""What is held back, what is asked, and what is let go."""

from __future__ import annotations

import itertools
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import pytest

from student_clap.ingest.fetch.doubt import LIKE, Doubt
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.sources.base import Wanted


def track(row: int) -> Wanted:
    return Wanted(row, f"t{row}", "", Path())


class Asked:
    """Counts the questions to the source."""

    def __init__(self, error: Exception | None = None) -> None:
        self.occasions: list[str] = []
        self.error = error

    def __call__(self, occasion: str) -> None:
        self.occasions.append(occasion)
        if self.error is not None:
            raise self.error


def fail(doubt: Doubt, row: int, asked: Asked, **error: Any) -> list[Wanted]:
    held = doubt.holds(track(row), FetchError("no", **{"permanent": True, "status": 403} | error))
    return doubt.settled(row, row, asked) if held else []


def doubt_of(*, known: bool = True, sample: int = 0) -> Doubt:
    def next_ones(n_tracks: int, after_row: int, without: AbstractSet[int]) -> list[Wanted]:
        rows = (row for row in itertools.count(after_row + 1) if row not in without)
        return [track(row) for row in itertools.islice(rows, min(n_tracks, sample))]

    return Doubt(next_ones, in_place=False, known=known)


def test_the_source_is_asked_once_for_like_failures_and_then_for_more() -> None:
    doubt, asked = doubt_of(), Asked()
    for row in range(LIKE - 1):
        assert fail(doubt, row, asked) == []
    assert doubt.released() == []
    fail(doubt, LIKE, asked)
    assert [len(asked.occasions), len(doubt.released())] == [1, LIKE]
    assert asked.occasions == [f"{LIKE} tracks in a row failed (no)"]
    for row in range(100, 100 + 4 * LIKE):
        fail(doubt, row, asked)
    assert [len(asked.occasions), len(doubt.released())] == [2, 4 * LIKE]


def test_other_tracks_are_tried_where_the_list_has_not_moved_on() -> None:
    doubt, asked = doubt_of(sample=LIKE), Asked()
    last_row = 20
    tried: list[list[int]] = []
    for begin in (0, LIKE):
        for row in range(begin, begin + LIKE):
            assert doubt.holds(track(row), FetchError("no", permanent=True, status=404))
            first = doubt.settled(row, last_row, asked)
        tried.append([t.row for t in first])
        doubt.fetched(in_place=False)  # one of them
    assert tried == [list(range(21, 21 + LIKE)), list(range(21 + LIKE, 21 + 2 * LIKE))]
    assert asked.occasions == []
    assert len(doubt.released()) == 2 * LIKE


def test_a_file_speaks_for_the_source() -> None:
    doubt, asked = doubt_of(), Asked()
    for row in range(0, 100, 2):
        fail(doubt, row, asked)
        doubt.fetched(in_place=False)
    assert asked.occasions == []
    assert len(doubt.released()) == 50


def test_failures_that_may_pass_or_are_a_track_s_own_are_not_held() -> None:
    doubt = doubt_of()
    assert not doubt.holds(track(0), FetchError("x", permanent=False))
    assert not doubt.holds(track(0), FetchError("x", permanent=True, kind="of an online service"))


def test_unlike_failures_are_no_row() -> None:
    doubt, asked = doubt_of(), Asked()
    for row in range(2 * (LIKE - 1)):
        fail(doubt, row, asked, status=(403, 404)[row % 2])
    assert asked.occasions == []
    assert len(doubt.end()) == 2 * (LIKE - 1)


def test_nothing_is_let_go_where_the_source_gives_nothing_or_the_run_ends_in_doubt() -> None:
    doubt, asked = doubt_of(), Asked(SourceError("gives nothing"))
    for row in range(LIKE - 1):
        fail(doubt, row, asked)
    with pytest.raises(SourceError, match="gives nothing"):
        fail(doubt, LIKE, asked)
    assert doubt.released() == []
    doubt = doubt_of(sample=3)
    first = [fail(doubt, row, asked) for row in range(LIKE)][-1]
    assert [t.row for t in first] == [LIKE, LIKE + 1, LIKE + 2]
    assert doubt.end() == []
