"""The store: what is written is read, what is damaged is noticed, what is half done never shows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray

from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe, State, frame_index
from student_clap.store import feature_store as feature_store_module
from student_clap.store.arrays.metadata import set_attributes
from student_clap.store.layout.codes import dequantise, quantise
from student_clap.store.layout.frame_order import BLOCKS, places
from student_clap.store.layout.strip import strip_layout
from student_clap.store.storage.errors import CorruptShardError, MissingFeaturesError, RecipeMismatchError, StoreError
from student_clap.store.storage.open import open_storage

MINUTE = 60 * 48_000
# zarr says so to every reader of a filter that is not in the standard's core.
NUMCODECS_REMARK = "ignore:Numcodecs codecs are not in the Zarr version 3 specification"

BOTH = pytest.mark.parametrize("where", ["directory", "s3"], indirect=True)


def shard_path(store: FeatureStore, recipe: Recipe, row: int) -> Path:
    """Where zarr puts the one shard of a row."""
    return store.path / "features" / recipe.name / "mel" / "c" / str(row) / "0" / "0"


@BOTH
def test_tracks_are_read_back(store, make_track):
    assert store.n_tracks == 5
    assert store.strings("title") == [f"Täst {n}" for n in range(5)]
    assert store.row_of()["default", "t3"] == 3
    assert np.array_equal(store.teacher()[2], make_track(2).teacher)
    assert np.isnan(store.teacher(0, 5)).sum() == 0
    rows = store.append_tracks([make_track(7, teacher=None, state=State.FAILED, error="no vector")])
    assert rows == range(5, 6)
    assert np.isnan(store.teacher(5)).all()
    reopened = FeatureStore.open(store.path)
    assert reopened.n_tracks == 6
    assert reopened.strings("error")[5] == "no vector"
    assert reopened.teacher_name == "test-teacher"


@BOTH
def test_updates_touch_only_their_rows(store):
    before = store.teacher()
    store.update_tracks([1, 4], state=[State.GONE, State.FAILED], error=["", "why"], audio=["x", "y"])
    assert store.states().tolist() == [State.FETCHED, State.GONE, State.FETCHED, State.FETCHED, State.FAILED]
    assert store.strings("audio") == ["", "x", "", "", "y"]
    assert np.array_equal(store.teacher(), before)
    with pytest.raises(KeyError, match="colour"):
        store.update_tracks([0], colour=["red"])


def test_a_strip_is_one_shard_and_is_read_back(store, recipe, make_codes):
    features = store.features(recipe)
    codes = make_codes(MINUTE + 77)
    features.write_strip(3, codes, MINUTE + 77)
    features.commit([3], [MINUTE + 77], [""])
    assert np.array_equal(features.strip(3), codes)
    shards = [p for p in (store.path / "features").rglob("*") if p.is_file() and "/mel/c/" in str(p)]
    assert shards == [shard_path(store, recipe, 3)]
    segments = features.segments(3)
    assert segments.shape == (12, 128, 1001)
    index = frame_index(MINUTE + 77, recipe)
    assert np.array_equal(segments[11], dequantise(codes[:, index[11]], recipe))
    assert features.made().tolist() == [False, False, False, True, False]


@BOTH
def test_a_strip_that_does_not_fit_is_refused(store, recipe, make_codes):
    features = store.features(recipe)
    with pytest.raises(StoreError, match=r"row 0: strip is uint8 \(128, 6061\); 2880480 samples need"):
        features.write_strip(0, make_codes(MINUTE), MINUTE + 480)
    codes = make_codes(MINUTE)
    codes[5, 5] = 0
    with pytest.raises(StoreError, match="means missing"):
        features.write_strip(0, codes, MINUTE)


def test_codes_are_within_half_a_step_and_never_zero(recipe):
    decibels = np.linspace(-100, 42.8, 100_001).astype(np.float32)
    codes = quantise(decibels, recipe)
    assert np.abs(dequantise(codes, recipe) - decibels).max() <= 0.5625 / 2 + 1e-4
    assert (codes.min(), codes.max()) == (1, 255)
    assert dequantise(quantise(np.float32([-100.0]), recipe), recipe)[0] == -100.0
    assert quantise(np.float32([-300, 300]), recipe).tolist() == [1, 255]


def test_a_track_that_is_not_made_or_lost_its_shard_is_an_error(store, recipe, make_codes):
    features = store.features(recipe)
    with pytest.raises(MissingFeaturesError, match="row 0 has no audiomuse features; run `student-clap featurize`"):
        features.strip(0)
    features.write_strip(0, make_codes(MINUTE), MINUTE)
    features.commit([0], [MINUTE], [""])
    shard_path(store, recipe, 0).unlink()
    with pytest.raises(MissingFeaturesError, match="gone or incomplete"):
        features.strip(0)


def test_bit_flips_are_found_or_harmless(store, recipe, make_codes):
    features = store.features(recipe)
    codes = make_codes(12 * 48_000)
    features.write_strip(0, codes, 12 * 48_000)
    features.commit([0], [12 * 48_000], [""])
    shard = shard_path(store, recipe, 0)
    whole = shard.read_bytes()
    found = 0
    for bit in np.random.default_rng(0).integers(0, 8 * len(whole), 60):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        shard.write_bytes(damaged)
        try:
            assert np.array_equal(features.strip(0), codes)
        except (CorruptShardError, MissingFeaturesError):
            found += 1
    assert found >= 55  # the rest hit the index entries of empty chunks


@BOTH
def test_another_recipe_lives_beside_the_first(store, recipe):
    store.features(recipe)
    clap = Recipe.from_config(AudioConfig(preset="clap"))
    store.features(clap)
    assert FeatureStore.open(store.path).recipes() == {"audiomuse": recipe, "clap": clap}
    assert store.features(clap).n_samples().tolist() == [0] * 5


@BOTH
def test_a_reader_is_told_which_recipes_there_are(store, recipe):
    store.features(recipe)
    with pytest.raises(StoreError, match=r"has no 'clap' features \(it has: audiomuse\)"):
        FeatureStore.open(store.path).features(Recipe.from_config(AudioConfig(preset="clap")))


@BOTH
def test_a_stored_recipe_that_differs_lists_every_difference(store, recipe):
    store.features(recipe)
    other = {**recipe.as_attributes(), "n_fft": 4096, "front_end": "older"}
    set_attributes(open_storage(store.path) / "features" / "audiomuse", {"recipe": other})
    with pytest.raises(RecipeMismatchError) as error:
        FeatureStore.open(store.path).features(recipe)
    assert "n_fft: stored 4096, wanted 2048" in error.value.message
    assert "front_end: stored 'older', wanted 'audiomuse-1'" in error.value.message


@BOTH
def test_features_grow_with_the_table(store, recipe, make_track, make_codes):
    features = store.features(recipe)
    features.write_strip(4, make_codes(MINUTE), MINUTE)
    features.commit([4], [MINUTE], [""])
    store.append_tracks([make_track(n) for n in range(5, 9)])
    assert store.features(recipe).n_samples().tolist() == [0, 0, 0, 0, MINUTE, 0, 0, 0, 0]
    assert np.array_equal(store.features(recipe).strip(4), make_codes(MINUTE))


@BOTH
def test_views_grow_with_the_table_and_are_set_back_with_the_tracks(store, recipe, make_track, make_codes):
    view, two = replace(recipe, view=1), np.full((2, 512), 512**-0.5, np.float16)
    for of, n_samples in ((recipe, MINUTE), (view, 15 * 48_000)):
        features = store.features(of)
        for row in (1, 4):
            features.write_strip(row, make_codes(n_samples, seed=row + of.view), n_samples)
        features.commit([1, 4], [n_samples] * 2, [""] * 2)
    for number in (0, 1):
        store.add_segment_set("a", hop_samples=240_000, model="d", view=number).write([1, 4], [two, two])
    store.append_tracks([make_track(n) for n in range(5, 7)])
    assert store.recipes() == {"audiomuse": recipe, "audiomuse.view-1": view}
    assert store.features(view).n_samples().tolist() == [0, 15 * 48_000, 0, 0, 15 * 48_000, 0, 0]
    assert np.array_equal(store.features(view).strip(4), make_codes(15 * 48_000, seed=5))
    assert np.array_equal(store.features(recipe).strip(4), make_codes(MINUTE, seed=4))
    assert store.segment_vectors("a", view=1).counts().tolist() == [0, 2, 0, 0, 2, 0, 0]
    store.segment_vectors("a", view=1).write([6], [two])
    store.outdate_features([4])
    for opened in (store, FeatureStore.open(store.path)):
        for of, n_samples in ((recipe, MINUTE), (view, 15 * 48_000)):
            assert opened.features(of).n_samples().tolist() == [0, n_samples, 0, 0, 0, 0, 0]
        assert opened.segment_vectors("a").counts().tolist() == [0, 2, 0, 0, 0, 0, 0]
        assert opened.segment_vectors("a", view=1).counts().tolist() == [0, 2, 0, 0, 0, 0, 2]


@pytest.mark.filterwarnings(NUMCODECS_REMARK)
@pytest.mark.parametrize("dies_at", ["title", "teacher", "state"])
def test_an_append_that_dies_leaves_nothing_behind(store, recipe, make_track, monkeypatch, dies_at):
    store.features(recipe)
    real = feature_store_module.append_rows.__globals__["array"]

    def dying(group, name):
        if name == dies_at:
            raise OSError("killed")
        return real(group, name)

    monkeypatch.setitem(feature_store_module.append_rows.__globals__, "array", dying)
    with pytest.raises(OSError, match="killed"):
        store.append_tracks([make_track(n, title="half") for n in range(5, 8)])
    monkeypatch.undo()
    store.close()
    assert FeatureStore.open(store.path).n_tracks == 5
    assert FeatureStore.open(store.path).strings("title") == [f"Täst {n}" for n in range(5)]
    with FeatureStore.open(store.path, "r+") as again:
        again.append_tracks([make_track(n) for n in range(5, 7)])
        assert again.strings("title") == [f"Täst {n}" for n in range(7)]
    opened = xarray.open_datatree(store.path, engine="zarr", consolidated=False)
    assert opened.sizes["track"] == 7


APPENDER = """
import sys, numpy as np
from student_clap.store import FeatureStore, Track
with FeatureStore.open(sys.argv[1], "r+") as store:
    print("ready", flush=True)
    for n in range(store.n_tracks, 400):
        vector = np.full(512, n, np.float32)
        store.append_tracks([Track("default", f"t{n}", title=f"title {n}", teacher=vector)])
        print("appended", n, flush=True)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_keeps_whole_rows(tmp_path):
    path = tmp_path / "features.zarr"
    FeatureStore.create(path, "teacher").close()
    there = 0
    for n_awaited, delay_s in ((0, 0.005), (1, 0.0), (1, 0.01), (2, 0.003), (4, 0.02)):
        process = subprocess.Popen([sys.executable, "-c", APPENDER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"  # the lock of the killed process before was free
        for n in range(there, there + n_awaited):
            assert process.stdout.readline() == f"appended {n}\n"
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        store = FeatureStore.open(path)
        assert store.n_tracks >= there + n_awaited  # what an append has returned of is kept
        there = store.n_tracks
        assert store.strings("track_id") == [f"t{n}" for n in range(there)]
        assert store.strings("title") == [f"title {n}" for n in range(there)]
        assert store.teacher()[:, 7].tolist() == [float(n) for n in range(there)]


@BOTH
def test_a_second_writer_is_refused_and_told_who_writes(store):
    with pytest.raises(StoreError, match=rf"is being written by process {os.getpid()} on "):
        FeatureStore.open(store.path, "r+")
    store.close()
    FeatureStore.open(store.path, "r+").close()


@BOTH
def test_tasks_write_shards_beside_the_writer(store, recipe, make_codes):
    store.features(recipe)
    writer = FeatureStore.shard_writer(store.path, recipe)
    writer.write_strip(2, make_codes(MINUTE), MINUTE)
    store.features(recipe).commit([2], [MINUTE], [""])
    assert np.array_equal(store.features(recipe).strip(2), make_codes(MINUTE))


def test_what_is_no_store_is_refused(tmp_path, store):
    with pytest.raises(StoreError, match="there is no feature store at"):
        FeatureStore.open(tmp_path / "nothing.zarr")
    with pytest.raises(StoreError, match="is there already"):
        FeatureStore.create(store.path, "x")
    with pytest.raises(StoreError, match="expected a directory or s3://"):
        FeatureStore.open("gs://bucket/features.zarr")
    set_attributes(store.path, {"format_version": 99})
    with pytest.raises(StoreError, match="version 99, expected 'student-clap-features' version 1"):
        FeatureStore.open(store.path)


@pytest.mark.filterwarnings(NUMCODECS_REMARK)
def test_xarray_shows_labelled_decibels_without_this_package(store, recipe, make_codes):
    features = store.features(recipe)
    codes = make_codes(MINUTE)
    features.write_strip(1, codes, MINUTE)
    features.commit([1], [MINUTE], [""])
    tree = xarray.open_datatree(store.path, engine="zarr", consolidated=False)
    mel = tree["features/audiomuse/mel"]
    assert mel.dims == ("track", "mel_band", "frame")
    assert mel.attrs["units"] == "dB"
    layout = strip_layout(MINUTE, recipe)
    stored_at = places(layout, recipe, BLOCKS, np.arange(layout.n_frames))
    shown = mel[1, :, : codes.shape[1]].values
    assert np.abs(shown[:, stored_at] - dequantise(codes, recipe)).max() < 1e-4
    # A segment by the rule of docs/store.md.
    first, second = 2 * 506, 3 * 506
    columns = [*range(first, first + 503), *range(second + 3, second + 498), *range(first + 503, first + 506)]
    assert np.abs(shown[:, columns] - features.segments(1)[2]).max() < 1e-4
    assert np.isnan(mel[0, 0, :10].values).all()  # a track without features is missing, not silent
    assert tree["title"].values[1] == "Täst 1"
