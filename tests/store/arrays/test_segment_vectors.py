"""Sets of segment vectors: what tasks write and the driver commits is read, in the set that it was written to."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray

from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe
from student_clap.store.layout.segments import grid_starts, segment_starts
from student_clap.store.storage.errors import CorruptShardError, StoreError
from student_clap.store.verify import verify

BOTH = pytest.mark.parametrize("where", ["directory", "s3"], indirect=True)
PRODUCTION, FINER = 240_000, 120_000
SECONDS = 48_000


def vectors(seed: int, n: int) -> np.ndarray:
    """[n, 512] of unit length."""
    found = np.random.default_rng(seed).standard_normal((n, 512))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


@BOTH
def test_tasks_write_and_the_driver_commits(store):
    taught = store.add_segment_set("other", hop_samples=FINER, model="d1")
    assert (taught.name, taught.model, taught.hop_samples) == ("other", "d1", FINER)
    address = pickle.loads(pickle.dumps(store.address))  # noqa: S301  as a task gets it

    def task(row: int) -> None:  # while the driver holds the store
        FeatureStore.segment_writer(address, "other").write_chunk(row, vectors(row, 3 + row))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(task, range(4)))
    assert taught.counts().tolist() == [0] * 5
    assert {(f.kind, f.row, f.segment_set) for f in verify(store, deep=True)} == {
        ("orphan segment vectors", row, "other") for row in range(4)
    }
    taught.commit([0, 1, 3], [3, 4, 6])
    assert taught.counts().tolist() == [3, 4, 0, 6, 0]
    with FeatureStore.open(store.path) as reader:
        assert reader.segment_sets() == ["other"]
        read = reader.segment_vectors()
        assert (read.name, read.model, read.hop_samples) == ("other", "d1", FINER)
        np.testing.assert_array_equal(read.read(3), vectors(3, 6))
        np.testing.assert_array_equal(read.read(1, 4), vectors(1, 4))
        assert read.read(2).shape == (0, 512)
        assert not reader.n_segment_teacher().any()
    taught.write([0, 2], [np.empty((0, 512), np.float16), vectors(9, 2)])
    assert taught.counts().tolist() == [0, 4, 2, 6, 0]


def test_a_set_is_added_once_and_another_grid_or_model_needs_another_name(store):
    with pytest.raises(StoreError, match="has no segment vectors; `student-clap featurize --teacher"):
        store.segment_vectors()
    store.add_segment_set("a", hop_samples=PRODUCTION, model="d1").write([0], [vectors(0, 2)])
    np.testing.assert_array_equal(store.add_segment_set("a", hop_samples=PRODUCTION, model="d1").read(0), vectors(0, 2))
    with pytest.raises(StoreError, match=r"'a' have a hop of 240000 samples, and 120000 is wanted: .*teacher\.name"):
        store.add_segment_set("a", hop_samples=FINER, model="d1")
    with pytest.raises(
        StoreError, match=r"'a' are those of another model \(its file has the digest d1, this one has d2"
    ):
        store.add_segment_set("a", hop_samples=PRODUCTION, model="d2")
    for hop in (0, 7, 240_001, 480_000, 500, 1.5):
        with pytest.raises(StoreError, match="expected one that divides 240000"):
            store.add_segment_set("b", hop_samples=hop, model="")
    for name in ("", "A", "a/b", "..", ".a", "a" * 65, "default"):
        with pytest.raises(StoreError, match=r"cannot be the name|is the name of the vectors"):
            store.add_segment_set(name, hop_samples=PRODUCTION, model="")
    store.add_segment_set("b", hop_samples=PRODUCTION, model="")
    with pytest.raises(StoreError, match=r"several teachers \(a, b\); name one"):
        store.segment_vectors()
    with pytest.raises(StoreError, match=r"no segment vectors of 'c'; it has those of a, b"):
        store.segment_vectors("c")
    assert store.add_segment_set("b", hop_samples=PRODUCTION, model="d3").model == "d3"
    with FeatureStore.open(store.path) as reader:
        assert reader.segment_vectors("b").model == "d3"
        with pytest.raises(StoreError, match="is open for reading"):
            reader.add_segment_set("c", hop_samples=PRODUCTION, model="")
        with pytest.raises(StoreError, match="is open for reading"):
            reader.remove_segment_set("b")


def test_what_cannot_be_vectors_is_refused(store):
    taught = store.add_segment_set("a", hop_samples=PRODUCTION, model="")
    broken = vectors(0, 2)
    broken[1, 7] = np.nan
    for impossible, why in ((vectors(0, 121), r"\[121, 512\], expected at most \[120, 512\]"), (broken, "NaN")):
        with pytest.raises(StoreError, match=why):
            taught.write_chunk(0, impossible)
        with pytest.raises(StoreError, match=why):
            taught.write([0], [impossible])
    with pytest.raises(StoreError, match="expected 0 to 120"):
        taught.commit([0], [121])
    taught.commit([0], [3])
    with pytest.raises(CorruptShardError, match="segment vectors of a are counted but not there; `student-clap feat"):
        taught.read(0)
    assert store.add_segment_set("fine", hop_samples=FINER, model="").set.max_segments == 238


def test_rows_that_come_later_have_none(store, make_track):
    taught = store.add_segment_set("a", hop_samples=PRODUCTION, model="")
    taught.write([4], [vectors(4, 2)])
    store.append_tracks([make_track(9)])
    assert store.segment_vectors("a").counts().tolist() == [0, 0, 0, 0, 2, 0]
    store.segment_vectors("a").write([5], [vectors(5, 3)])
    store.outdate_features([4])
    assert store.segment_vectors("a").counts().tolist() == [0, 0, 0, 0, 0, 3]
    assert [f.kind for f in verify(store, deep=True)] == ["orphan segment vectors"]


def test_xarray_reads_sets_of_any_grid(store):
    store.write_segment_teacher([1], [vectors(0, 3)])
    store.add_segment_set("fine", hop_samples=FINER, model="d").write([2], [vectors(1, 5)])
    store.add_segment_set("same", hop_samples=PRODUCTION, model="d").write([3], [vectors(2, 4)])
    tree = xarray.open_datatree(store.path, engine="zarr", consolidated=False)
    fine = tree["segment_vectors/fine"]
    assert fine.attrs["hop_samples"] == FINER
    assert fine["n_segments"].values.tolist() == [0, 0, 5, 0, 0]
    assert fine["vectors"].dims == ("track", "start", "embedding")
    np.testing.assert_array_equal(fine["vectors"][2, :5].values, vectors(1, 5))
    np.testing.assert_array_equal(tree["segment_teacher"][1, :3].values, vectors(0, 3))


def test_a_finer_grid_holds_production_s_segments_and_the_same_tail():
    recipe = Recipe.from_config(AudioConfig())
    for n_samples in (1, 10 * SECONDS, 10 * SECONDS + 1, 25 * SECONDS, 39 * SECONDS + 77, 600 * SECONDS + 1):
        own = segment_starts(n_samples, recipe)
        np.testing.assert_array_equal(grid_starts(n_samples, recipe, PRODUCTION), own)
        for hop in (120_000, 48_000, 24_000):
            fine = grid_starts(n_samples, recipe, hop)
            assert set(own.tolist()) <= set(fine.tolist())
            assert fine[-1] == own[-1]
            assert (np.diff(fine[:-1]) == hop).all()
    for hop in (0, -1, 7, 480_000):
        with pytest.raises(ValueError, match="divides 240000"):
            grid_starts(SECONDS, recipe, hop)


def test_track_vectors_are_written_where_there_are_none(store, make_track):
    store.append_tracks([make_track(7, teacher=None), make_track(8, teacher=None)])
    before = store.teacher()
    unit = vectors(3, 3).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert store.write_teacher([1, 5, 6], unit) == [5, 6]
    np.testing.assert_array_equal(store.teacher(), [*before[:5], unit[1], unit[2]])
    assert store.write_teacher([], np.empty((0, 512), np.float32)) == []
    for wrong in (2 * unit, np.full_like(unit, np.nan)):
        with pytest.raises(StoreError, match="row 1: the teacher's vector has length"):
            store.write_teacher([1, 5, 6], wrong)
