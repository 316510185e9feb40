"""What an evaluation takes of the teacher's segment vectors, whatever grid they lie on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from student_clap.config.schema import AudioConfig
from student_clap.export.evaluate.evaluation import every_second_segment
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.layout.segments import grid_starts, segment_starts

RECIPE = Recipe.from_config(AudioConfig())
LENGTHS = [47 * 48_000 + 5, 30 * 48_000]  # the tail of the second repeats its last segment
OWN, FINE = RECIPE.segment_hop_samples, 120_000


def vectors(row: int, hop: int, seed: int) -> np.ndarray:
    """[segment, 512]; that of a start is the same on every grid."""
    found = [np.random.default_rng([seed, row, start]).standard_normal(512) for start in grid_starts_of(row, hop)]
    return (np.stack(found) / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def grid_starts_of(row: int, hop: int) -> list[int]:
    starts: list[int] = grid_starts(LENGTHS[row], RECIPE, hop).tolist()
    return starts


@pytest.fixture
def store(tmp_path: Path):
    """Two tracks of a teacher called Own."""
    with FeatureStore.create(tmp_path / "features.zarr", "Own") as opened:
        opened.append_tracks([Track("d", f"t{n}", state=State.FETCHED) for n in range(2)])
        yield opened


def expected(seed: int) -> np.ndarray:
    means = []
    for row, length in enumerate(LENGTHS):
        found = vectors(row, OWN, seed)
        assert len(found) == len(segment_starts(length, RECIPE))
        mean = found[::2].astype(np.float32).mean(axis=0)
        means.append(mean / np.linalg.norm(mean))
    return np.stack(means)


def of(store: FeatureStore) -> np.ndarray | None:
    return every_second_segment(store, RECIPE, [0, 1], LENGTHS)


def test_every_second_segment_is_production_s_on_any_grid(store: FeatureStore) -> None:
    assert of(store) is None
    store.write_segment_teacher([0, 1], [vectors(row, OWN, 1) for row in range(2)])
    np.testing.assert_allclose(of(store), expected(1), atol=1e-6)
    store.remove_segment_set("own")
    fine = store.add_segment_set("own", hop_samples=FINE, model="")
    fine.write([0], [vectors(0, FINE, 2)])
    assert of(store) is None  # not of all
    fine.write([1], [vectors(1, FINE, 2)[:-1]])
    assert of(store) is None  # not of a track of that length
    fine.write([1], [vectors(1, FINE, 2)])
    np.testing.assert_allclose(of(store), expected(2), atol=1e-6)


def test_of_several_teachers_that_of_the_track_vectors_is_heard(store: FeatureStore) -> None:
    for seed, name in enumerate(("another", "third")):
        store.add_segment_set(name, hop_samples=OWN, model="").write(
            [0, 1], [vectors(row, OWN, seed) for row in (0, 1)]
        )
    assert of(store) is None
    store.add_segment_set("own", hop_samples=FINE, model="").write([0, 1], [vectors(row, FINE, 7) for row in (0, 1)])
    np.testing.assert_allclose(of(store), expected(7), atol=1e-6)
