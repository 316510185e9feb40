"""The split: whole artists, by a pure function of their names."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from student_clap.config.schema import SplitConfig
from student_clap.train.data.selection import held_out

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
        "from student_clap.config.schema import SplitConfig; from student_clap.train.data.selection import held_out;"
        "print(''.join(str(int(x)) for x in held_out([f'artist {n}' for n in range(200)], SplitConfig())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    mask = held_out(artists, SplitConfig())
    assert done.stdout.strip() == "".join(str(int(x)) for x in mask)
    assert 8 <= mask.sum() <= 34  # a tenth
