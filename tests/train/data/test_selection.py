"""The split: whole artists, by a pure function of their names."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from student_clap.config.schema import SplitConfig
from student_clap.train.data.selection import folds_of

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


def test_spellings_of_one_artist_stay_together() -> None:
    assert len(set(folds_of(["Björk", "BJÖRK ", "Bjo\u0308rk"], SplitConfig()).tolist())) == 1


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
