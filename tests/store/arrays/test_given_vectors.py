"""Vectors of tracks that a teacher of ours gave are told from those of a source, and are withdrawn with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from student_clap.store import FeatureStore, Track
from student_clap.store.repair import repair_path
from student_clap.store.storage.errors import StoreError
from student_clap.store.verify import verify_path


def unit(seed: int) -> np.ndarray:
    """[512] float32 of length 1."""
    vector = np.random.default_rng(seed).standard_normal(512)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of three tracks, the second with a vector."""
    path = tmp_path / "s.zarr"
    with FeatureStore.create(path, "t") as store:
        store.append_tracks([Track("d", str(n), teacher=unit(n) if n == 1 else None) for n in range(3)])
    return path


def test_only_rows_without_a_vector_are_given_one_and_only_those_are_marked(path: Path) -> None:
    with FeatureStore.open(path, "r+") as store:
        assert not store.given_vectors().any()
        assert not (path / "teacher_given").exists()  # it costs nothing where nothing is given
        assert store.write_teacher([0, 1], np.stack([unit(10), unit(11)])) == [0]
        np.testing.assert_array_equal(store.teacher()[:2], np.stack([unit(10), unit(1)]))
        assert store.given_vectors().tolist() == [True, False, False]
        store.append_tracks([Track("d", "3")])
        assert store.given_vectors().tolist() == [True, False, False, False]
        with pytest.raises(StoreError, match="row 2: the teacher's vector has length 2"):
            store.write_teacher([2], 2 * unit(2)[None])
        assert store.given_vectors().tolist() == [True, False, False, False]


def test_what_a_source_brings_is_no_longer_given_and_the_rest_is_withdrawn(path: Path) -> None:
    with FeatureStore.open(path, "r+") as store:
        store.write_teacher([0, 2], np.stack([unit(10), unit(12)]))
        store.update_tracks([0], teacher=unit(20)[None])
        assert store.given_vectors().tolist() == [False, False, True]
        store.withdraw_given_vectors()
        assert not store.given_vectors().any()
        np.testing.assert_array_equal(store.teacher()[:2], np.stack([unit(20), unit(1)]))
        assert np.isnan(store.teacher()[2]).all()


def test_a_damaged_column_is_found_and_repaired(path: Path) -> None:
    with FeatureStore.open(path, "r+") as store:
        store.write_teacher([0, 2], np.stack([unit(10), unit(12)]))
    (chunk,) = (p for p in (path / "teacher_given" / "c").rglob("*") if p.is_file())
    chunk.write_bytes(b"\0" * 8)
    findings, _ = verify_path(path, deep=True)
    assert any("teacher_given" in str(finding) for finding in findings)
    repair_path(path, deep=True)
    with FeatureStore.open(path) as store:
        # What one of ours gave must not pass for a source's; a source's vector that is withdrawn comes with ingest.
        assert store.given_vectors().tolist() == [True, True, True]
        np.testing.assert_array_equal(store.teacher()[0], unit(10))
    (path / "teacher_given" / "zarr.json").write_text("{")
    repair_path(path, deep=True)
    with FeatureStore.open(path) as store:
        assert store.given_vectors().tolist() == [True, True, True]
