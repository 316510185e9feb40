"""The pure functions of randomness: orders, choices, seeds, shares."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from student_clap.train.data.order import choose_segments, derive_seed, epoch_order, sample_rows, share

seeds = st.integers(-(2**40), 2**40)


@given(st.integers(0, 300), seeds, st.integers(0, 1000))
def test_an_epoch_s_order_is_a_permutation_and_repeatable(n: int, seed: int, epoch: int) -> None:
    order = epoch_order(n, seed, epoch)
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(order, epoch_order(n, seed, epoch))


def test_streams_are_not_reused_across_seeds() -> None:
    orders = {tuple(epoch_order(20, seed, epoch)) for seed in range(12) for epoch in range(12)}
    assert len(orders) == 144
    assert len({derive_seed(purpose, a, b) for purpose in ("x", "y") for a in range(20) for b in range(20)}) == 800


def test_the_order_is_the_same_for_ever() -> None:
    assert epoch_order(8, 0, 0).tolist() == [1, 3, 2, 6, 0, 4, 5, 7]
    assert choose_segments(30, 5, 0, 0, 7).tolist() == [5, 6, 17, 20, 24]


@given(st.integers(1, 130), st.none() | st.integers(1, 140), seeds, st.integers(0, 50), st.integers(0, 10_000))
def test_chosen_segments_are_distinct_and_of_the_track(
    n: int, wanted: int | None, seed: int, epoch: int, row: int
) -> None:
    chosen = choose_segments(n, wanted, seed, epoch, row)
    assert len(chosen) == (n if wanted is None else min(n, wanted))
    assert np.array_equal(chosen, np.unique(chosen))
    assert chosen[0] >= 0
    assert chosen[-1] < n


def test_every_segment_gets_its_turn() -> None:
    counts = np.zeros(12, int)
    for epoch in range(600):
        counts[choose_segments(12, 3, 0, epoch, 5)] += 1
    assert counts.min() > 100  # 150 expected
    first = [choose_segments(12, 3, 0, 0, row).tolist() for row in range(50)]
    assert len({tuple(c) for c in first}) > 30  # tracks choose on their own


@given(st.integers(0, 50), st.integers(1, 60), seeds)
def test_a_sample_of_rows_is_distinct(n: int, limit: int, seed: int) -> None:
    rows = np.arange(n) * 3
    sample = sample_rows(rows, limit, seed)
    assert len(sample) == min(n, limit)
    assert set(sample.tolist()) <= set(rows.tolist())
    assert np.array_equal(sample, np.unique(sample))


@given(n=st.integers(0, 50), world_size=st.integers(1, 9))
def test_shares_are_neighbours_and_make_up_the_whole(n: int, world_size: int) -> None:
    items = list(range(n))
    shares = [items[share(n, rank, world_size)] for rank in range(world_size)]
    assert [item for part in shares for item in part] == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
