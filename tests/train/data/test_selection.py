"""The split: whole artists, by a pure function of their names."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_clap.config.schema import AudioConfig, SplitConfig
from student_clap.store import Recipe, State
from student_clap.train.data.selection import TrackTable, folds_of, select

names = st.lists(st.text(max_size=12), max_size=60)
splits = st.integers(2, 12).flatmap(
    lambda folds: st.builds(
        SplitConfig,
        method=st.sampled_from(["hash", "sorted"]),
        folds=st.just(folds),
        fold=st.integers(0, folds - 1),
    )
)


@given(names, splits)
def test_an_artist_is_on_one_side(artists: list[str], split: SplitConfig) -> None:
    folds = folds_of(artists, split)
    assert folds.shape == (len(artists),)
    sides: dict[str, set[int]] = {}
    for artist, fold in zip(artists, folds.tolist(), strict=True):
        sides.setdefault(artist, set()).add(fold)
    assert all(len(side) == 1 for side in sides.values())
    assert all(side == {-1} for artist, side in sides.items() if not artist.strip())


@given(names, st.integers(2, 12), st.sampled_from(["hash", "sorted"]))
def test_the_folds_are_a_partition(artists: list[str], folds: int, method: str) -> None:
    found = folds_of(artists, SplitConfig.model_validate({"method": method, "folds": folds}))
    assert set(found.tolist()) <= set(range(-1, folds))
    assert np.array_equal(found >= 0, [bool(artist.strip()) for artist in artists])


@given(names, names, splits, st.randoms())
def test_with_hash_an_artist_stays_when_the_library_grows(before: list[str], new: list[str], split, random) -> None:
    split = split.model_copy(update={"method": "hash"})
    after = before + new
    random.shuffle(after)
    grown = dict(zip(after, folds_of(after, split).tolist(), strict=True))
    assert all(grown[artist] == fold for artist, fold in zip(before, folds_of(before, split).tolist(), strict=True))


def test_sorted_takes_every_nth_name() -> None:
    artists = ["c", "a", "b", "a", "", "e", "d"]
    assert folds_of(artists, SplitConfig(method="sorted", folds=2)).tolist() == [0, 0, 1, 0, -1, 0, 1]


@pytest.mark.parametrize("method", ["hash", "sorted"])
def test_spellings_of_one_artist_stay_together(method: str) -> None:
    split = SplitConfig.model_validate({"method": method, "folds": 3})
    assert len(set(folds_of(["Björk", "BJÖRK ", "Bjo\u0308rk"], split).tolist())) == 1
    abba, other, *_ = folds_of(["ABBA", "Abba", "AC/DC", "Air"], split).tolist()
    assert abba == other


def test_sorted_deals_the_spellings_of_an_artist_as_one_name() -> None:
    artists = ["ABBA", "Abba", "AC/DC", "Air", "abba "]
    assert folds_of(artists, SplitConfig(method="sorted", folds=3)).tolist() == [0, 0, 1, 2, 0]


@given(st.lists(st.from_regex(r"[A-Za-z]{1,3}", fullmatch=True), unique_by=str.casefold), st.integers(2, 5))
def test_sorted_deals_names_that_are_not_alike_as_ever(artists: list[str], folds: int) -> None:
    expected = {artist: place % folds for place, artist in enumerate(sorted(artists))}
    found = folds_of(artists, SplitConfig(method="sorted", folds=folds)).tolist()
    assert found == [expected[artist] for artist in artists]


def test_an_empty_side_counts_artists_and_not_spellings() -> None:
    n = 3
    table = TrackTable(
        n_samples=np.full(n, 48_000),
        teacher=np.ones((n, 512), np.float32),
        names=[f"default/{row}" for row in range(n)],
        artists=["ABBA", "Abba", "abba"],
        states=np.full(n, State.FETCHED, np.uint8),
        recipe=Recipe.from_config(AudioConfig()),
    )
    with pytest.raises(click.ClickException, match=r"3 usable tracks by 1 artist\): tracks of at least two artists"):
        select(table, SplitConfig(method="sorted", folds=2))


def test_hash_does_not_depend_on_the_process() -> None:
    artists = [f"artist {n}" for n in range(200)]
    code = (
        "from student_clap.config.schema import SplitConfig; from student_clap.train.data.selection import folds_of;"
        "print(''.join(map(str, folds_of([f'artist {n}' for n in range(200)], SplitConfig()))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    folds = folds_of(artists, SplitConfig())
    assert done.stdout.strip() == "".join(map(str, folds))
    assert all(8 <= count <= 34 for count in np.bincount(folds))  # a tenth each
