"""Some columns of a strip, read without the rest: the same codes, fewer bytes, damage found where it is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopback.objectstore import counting
from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe, Track, frame_index
from student_clap.store.arrays.windows import window_index
from student_clap.store.layout.strip import strip_frames
from student_clap.store.storage.errors import CorruptShardError, MissingFeaturesError

RATE = 48_000
# A short segment, so that small tracks have many.
SMALL = replace(
    Recipe.from_config(AudioConfig()), n_mels=8, n_fft=2048, segment_samples=RATE, max_samples=20 * RATE
)  # fmt: skip

HOPS = (4_800, 24_000, 48_000)  # the last is a whole segment: no configuration has a longer one


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """For some hops from segment to segment, features of one row that can be written again and again."""
    found = {}
    for hop in HOPS:
        recipe = replace(SMALL, segment_hop_samples=hop)
        store = FeatureStore.create(tmp_path_factory.mktemp("store") / f"{hop}.zarr", "test")
        store.append_tracks([Track("d", "t")])
        found[hop] = (store, store.features(recipe))
    yield found
    for store, _ in found.values():
        store.close()


@given(
    n_samples=st.integers(1, SMALL.max_samples + 1),
    hop=st.sampled_from(HOPS),
    data=st.data(),
)
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_columns_are_those_of_the_whole_strip(stores, n_samples, hop, data):
    _, features = stores[hop]
    shape = (SMALL.n_mels, strip_frames(n_samples, features.recipe))
    codes = np.random.default_rng(n_samples).integers(1, 256, shape, dtype=np.uint8)
    features.write_strip(0, codes, n_samples)
    assert np.array_equal(features.strip(0, n_samples), codes)
    index = frame_index(n_samples, features.recipe)
    chosen = np.array(data.draw(st.lists(st.integers(0, len(index) - 1), min_size=1, max_size=4)))
    columns, within = features.columns(0, n_samples, index[chosen])
    assert within.dtype == np.int32
    assert within.shape == (len(chosen), features.recipe.segment_frames)
    assert np.array_equal(columns[:, within], codes[:, index[chosen]])
    assert columns.shape[1] == len(np.unique(index[chosen]))
    if n_samples > 3 * RATE:
        windows = window_index(n_samples, features.recipe, length_s=0.5, hop_s=0.31)[:2]
        columns, within = features.columns(0, n_samples, windows)
        assert np.array_equal(columns[:, within], codes[:, windows])


N_SAMPLES = 61 * RATE + 17


@pytest.fixture
def filled(store, recipe, make_codes):
    """Features with row 0 made, and its strip."""
    features, codes = store.features(recipe), make_codes(N_SAMPLES)
    features.write_strip(0, codes, N_SAMPLES)
    features.commit([0], [N_SAMPLES], [""])
    return features, codes


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification")
@pytest.mark.parametrize("written_by_zarr", [False, True])
def test_older_features_are_read_in_parts_and_written_as_they_are(
    store, recipe, make_codes, make_older_features, written_by_zarr
):
    features, codes = make_older_features(store, recipe), make_codes(N_SAMPLES)
    if written_by_zarr:
        mel = zarr.open_group(str(store.path), mode="r+")["features/audiomuse/mel"]
        wide = np.zeros((1, *mel.shape[1:]), np.uint8)
        wide[0, :, : codes.shape[1]] = codes
        mel[:1] = wide
    else:
        features.write_strip(0, codes, N_SAMPLES)
    features.commit([0], [N_SAMPLES], [""])
    store.close()
    features = FeatureStore.open(store.path).features(recipe)
    index = frame_index(N_SAMPLES, recipe)[[1, 10]]
    columns, within = features.columns(0, N_SAMPLES, index)
    assert np.array_equal(columns[:, within], codes[:, index])
    assert np.array_equal(features.strip(0), codes)


def test_damage_is_found_where_it_is_read(filled, recipe):
    features, codes = filled
    path = features.shards.path / "0/0/0"
    whole = path.read_bytes()
    index = frame_index(N_SAMPLES, recipe)
    found = 0
    for at in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CorruptShardError):
            features.strip(0)
        for segment in range(len(index)):
            try:
                columns, within = features.columns(0, N_SAMPLES, index[[segment]])
            except CorruptShardError:
                found += 1
            else:
                assert np.array_equal(columns[:, within], codes[:, index[[segment]]])
    assert found >= 41
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptShardError, match="index"):
        features.columns(0, N_SAMPLES, index[:1])
    path.write_bytes(whole[-50:])
    with pytest.raises(CorruptShardError, match="less than its index"):
        features.columns(0, N_SAMPLES, index[:1])


def test_what_is_not_there_is_missing(filled, recipe):
    features, _ = filled
    index = frame_index(N_SAMPLES, recipe)[:1]
    with pytest.raises(MissingFeaturesError, match="run `student-clap featurize`"):
        features.columns(1, 0, index)
    with pytest.raises(MissingFeaturesError, match="gone or incomplete"):
        features.columns(1, N_SAMPLES, index)
    longer = N_SAMPLES + 30 * RATE
    with pytest.raises(MissingFeaturesError, match="gone or incomplete"):
        features.columns(0, longer, frame_index(longer, recipe)[-1:])
    with pytest.raises(CorruptShardError, match="more than the"):
        features.columns(0, 41 * RATE, index)


@pytest.mark.parametrize("where", ["s3"], indirect=True)
def test_of_an_object_the_index_and_the_chunks_are_asked_for(filled, store, recipe, object_server, monkeypatch):
    _, codes = filled
    store.close()
    index = frame_index(N_SAMPLES, recipe)
    with counting(object_server.endpoint) as (endpoint, counts):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        features = FeatureStore.open(store.path).features(recipe)
        counts.requests.clear()
        counts.n_bytes = 0
        chosen = index[[1, 8]]
        columns, within = features.columns(0, N_SAMPLES, chosen)
        assert np.array_equal(columns[:, within], codes[:, chosen])
        # One for the end, one for each segment; two of twelve segments are four of thirteen chunks.
        assert [asked.method for asked in counts.requests] == ["GET"] * 3
        assert all(asked.range and asked.range.startswith("bytes=") for asked in counts.requests)
        assert counts.n_bytes < 0.4 * codes.nbytes
        counts.requests.clear()
        assert np.array_equal(features.strip(0, N_SAMPLES), codes)
        assert [(asked.method, asked.range) for asked in counts.requests] == [("GET", None)]
    monkeypatch.setenv("AWS_ENDPOINT_URL", object_server.endpoint)
    with pytest.raises(MissingFeaturesError, match="gone or incomplete"):
        FeatureStore.open(store.path).features(recipe).columns(3, N_SAMPLES, chosen)
