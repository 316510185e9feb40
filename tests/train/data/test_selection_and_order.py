"""The pure functions: split, orders, schedule, passes."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_clap.config.schema import SplitConfig
from student_clap.train.data.batches import plan_passes
from student_clap.train.data.order import choose_segments, derive_seed, epoch_order, sample_rows
from student_clap.train.data.split import held_out
from student_clap.train.loop.schedule import FLOOR, learning_rate

names = st.lists(st.text(max_size=12), max_size=60)
splits = st.integers(2, 12).flatmap(
    lambda folds: st.builds(
        SplitConfig,
        method=st.sampled_from(["hash", "sorted"]),
        folds=st.just(folds),
        fold=st.integers(0, folds - 1),
    )
)
seeds = st.integers(-(2**40), 2**40)


@given(names, splits)
def test_an_artist_is_on_one_side(artists: list[str], split: SplitConfig) -> None:
    mask = held_out(artists, split)
    assert mask.shape == (len(artists),)
    sides: dict[str, set[bool]] = {}
    for artist, out in zip(artists, mask.tolist(), strict=True):
        sides.setdefault(artist, set()).add(out)
    assert all(len(side) == 1 for side in sides.values())
    assert all(side == {False} for artist, side in sides.items() if not artist.strip())


@given(names, st.integers(2, 12), st.sampled_from(["hash", "sorted"]))
def test_the_folds_are_a_partition(artists: list[str], folds: int, method: str) -> None:
    times = sum(
        held_out(artists, SplitConfig.model_validate({"method": method, "folds": folds, "fold": fold})).astype(int)
        for fold in range(folds)
    )
    assert np.array_equal(times, [1 if artist.strip() else 0 for artist in artists])


@given(names, names, splits, st.randoms())
def test_with_hash_an_artist_stays_when_the_library_grows(before: list[str], new: list[str], split, random) -> None:
    split = split.model_copy(update={"method": "hash"})
    after = before + new
    random.shuffle(after)
    grown = dict(zip(after, held_out(after, split).tolist(), strict=True))
    assert all(grown[artist] == out for artist, out in zip(before, held_out(before, split).tolist(), strict=True))


def test_sorted_takes_every_nth_name() -> None:
    artists = ["c", "a", "b", "a", "", "e", "d"]
    mask = held_out(artists, SplitConfig(method="sorted", folds=2, fold=1))
    assert [a for a, out in zip(artists, mask, strict=True) if out] == ["b", "d"]


def test_spellings_of_one_artist_stay_together() -> None:
    for fold in range(10):
        mask = held_out(["Björk", "BJÖRK ", "Bjo\u0308rk"], SplitConfig(fold=fold))
        assert len(set(mask.tolist())) == 1


def test_hash_does_not_depend_on_the_process() -> None:
    artists = [f"artist {n}" for n in range(200)]
    code = (
        "from student_clap.config.schema import SplitConfig; from student_clap.train.data.split import held_out;"
        "print(''.join(str(int(x)) for x in held_out([f'artist {n}' for n in range(200)], SplitConfig())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    mask = held_out(artists, SplitConfig())
    assert done.stdout.strip() == "".join(str(int(x)) for x in mask)
    assert 8 <= mask.sum() <= 34  # a tenth


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


@given(st.lists(st.integers(1, 130), max_size=40), st.integers(1, 200))
def test_passes_hold_whole_tracks_in_order_within_the_limit(counts: list[int], limit: int) -> None:
    passes = plan_passes(counts, limit)
    assert [track for tracks in passes for track in tracks] == list(range(len(counts)))
    assert all(len(tracks) == 1 or sum(counts[t] for t in tracks) <= limit for tracks in passes)


def test_the_schedule_warms_up_and_decays_to_its_floor() -> None:
    rates = [learning_rate(step, peak=1e-3, warmup_steps=10, total_steps=100) for step in range(100)]
    assert np.allclose(np.diff(rates[:10]), 1e-4)
    assert max(rates) == rates[9] == pytest.approx(1e-3)
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(FLOOR)
    assert learning_rate(0, peak=1e-3, warmup_steps=0, total_steps=1) == pytest.approx(1e-3)
    assert learning_rate(5, peak=1e-8, warmup_steps=0, total_steps=6) == pytest.approx(1e-8)  # never above the peak
