"""Runs of columns stand for the columns that they hold."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from student_clap.store.layout.runs import n_columns, runs_of, union


@given(columns=st.lists(st.integers(0, 30), max_size=40))
def test_runs_hold_the_columns_in_their_order(columns):
    runs = runs_of(np.array(columns, np.int64))
    assert [column for run in runs for column in range(*run)] == columns
    assert n_columns(runs) == len(columns)


@given(
    pieces=st.lists(st.tuples(*[st.integers(0, 60)] * 3), max_size=6),
    lengths=st.tuples(*[st.integers(1, 12)] * 3),
)
def test_the_union_has_every_column_once_and_says_where(pieces, lengths):
    begins = np.array(pieces, np.int64).reshape(-1, 3)
    runs, within = union(begins, lengths)
    held = [column for run in runs for column in range(*run)]
    wanted = {b + i for piece in pieces for b, n in zip(piece, lengths, strict=True) for i in range(n)}
    assert held == sorted(wanted)
    assert within.shape == begins.shape
    for begin, place, length in zip(begins.ravel(), within.ravel(), lengths * len(pieces), strict=True):
        assert held[place : place + length] == list(range(begin, begin + length))
