"""Segment vectors that are not as many as the audio has segments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe, Track
from student_clap.store.repair import repair_path
from student_clap.store.verify import verify_path

FULL = Recipe.from_config(AudioConfig())
CLAP = Recipe.from_config(AudioConfig(preset="clap"))
SHORT = Recipe.from_config(AudioConfig(max_duration_s=20.0))
VECTOR = np.full(512, 512**-0.5, np.float32)
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a store of one row, with segment vectors, and what the recipes say of its length; no shards."""

    def _make(n_segments: int, *, hop_samples: int = 240_000, source: bool = False, **seconds: float) -> Path:
        recipes = {"full": FULL, "clap": CLAP, "short": SHORT}
        with FeatureStore.create(tmp_path / "s.zarr", "t") as store:
            store.append_tracks([Track("d", "0", teacher=VECTOR)])
            for name, length_s in seconds.items():
                store.features(recipes[name]).commit([0], [int(48_000 * length_s)], [""])
            vectors = np.stack([VECTOR] * n_segments).astype(np.float16)
            if source:
                store.write_segment_teacher([0], [vectors])
            else:
                store.add_segment_set("ours", hop_samples=hop_samples, model="m").write([0], [vectors])
        return tmp_path / "s.zarr"

    return _make


def details(path: Path) -> list[str]:
    return [f.detail for f in verify_path(path, deep=False)[0] if f.kind == "damaged segment vectors"]


def test_too_few_are_a_fault_that_repair_takes_away(make: Make) -> None:
    path = make(2, full=22.0)
    assert details(path) == ["2 segments, expected 4: they are of audio of another length"]
    assert repair_path(path, deep=False).segment_vectors == 1
    assert details(path) == []
    with FeatureStore.open(path) as store:
        assert store.segment_vectors("ours").counts().tolist() == [0]


def test_a_finer_grid_has_more(make: Make) -> None:
    assert details(make(4, hop_samples=120_000, full=15.0)) == []


def test_a_source_has_the_say_on_what_it_brought(make: Make) -> None:
    assert details(make(2, full=22.0, source=True)) == []


def test_those_of_a_longer_or_shorter_part_of_the_track_fit_the_features_of_it(make: Make) -> None:
    assert details(make(4, full=22.0, short=20.0)) == []


@pytest.mark.parametrize(("seconds", "fault"), [({"full": 30.0, "short": 20.0}, True), ({"short": 20.0}, False)])
def test_of_recipes_that_cut_otherwise_all_are_asked(make: Make, seconds: dict[str, float], fault: bool) -> None:
    path = make(5, **({"full": 0.0} | seconds))
    assert bool(details(path)) is fault


def test_features_that_are_not_made_say_nothing(make: Make) -> None:
    assert details(make(5, full=0.0)) == []


def test_recipes_of_one_cap_know_one_length(make: Make) -> None:
    assert details(make(2, full=22.0, clap=0.0)) == ["2 segments, expected 4: they are of audio of another length"]


def test_those_of_a_view_fit_the_view_and_not_the_track(make: Make) -> None:
    """A view may be shorter or longer than its track, and another view than the first."""
    path = make(4, full=22.0)
    with FeatureStore.open(path, "r+") as store:
        for view, seconds, n_segments in ((1, 15.0, 3), (2, 33.0, 6)):
            store.features(replace(FULL, view=view)).commit([0], [int(48_000 * seconds)], [""])
            vectors = np.stack([VECTOR] * n_segments).astype(np.float16)
            store.add_segment_set("ours", hop_samples=240_000, model="m", view=view).write([0], [vectors])
    assert details(path) == []
    with FeatureStore.open(path, "r+") as store:
        store.features(replace(FULL, view=2)).commit([0], [48_000 * 25], [""])
        store.features(replace(CLAP, view=1)).commit([0], [48_000 * 15], [""])
    found = [f for f in verify_path(path, deep=False)[0] if f.kind == "damaged segment vectors"]
    assert [(f.segment_set, f.detail) for f in found] == [
        ("ours.view-2", "6 segments, expected 5: they are of audio of another length")
    ]
    assert repair_path(path, deep=False).segment_vectors == 1
    with FeatureStore.open(path) as store:
        assert store.segment_vectors("ours").counts().tolist() == [4]
        assert [store.segment_vectors("ours", view=view).counts().tolist() for view in (1, 2)] == [[3], [0]]


def test_those_of_a_view_without_features_say_nothing(make: Make) -> None:
    path = make(4, full=22.0)
    with FeatureStore.open(path, "r+") as store:
        vectors = np.stack([VECTOR] * 9).astype(np.float16)
        store.add_segment_set("ours", hop_samples=240_000, model="m", view=1).write([0], [vectors])
    assert details(path) == []
