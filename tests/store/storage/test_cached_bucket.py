"""A bucket's shards through a folder of this machine: asked for once, never an old or a damaged one."""

from __future__ import annotations

import gc
import logging

import numpy as np
import pytest
from click.testing import CliRunner

from loopback.objectstore import counting
from student_clap.config.cli import main
from student_clap.store import CachedPath, FeatureStore, frame_index
from student_clap.store.storage.errors import CorruptShardError
from student_clap.store.verify import verify_path
from student_clap.train.data.dataset import TrackDataset

SECONDS = 48_000
LENGTHS = [(12 + 6 * row) * SECONDS for row in range(5)]
pytestmark = pytest.mark.parametrize("where", ["s3"], indirect=True)


@pytest.fixture
def asked(object_server, monkeypatch):
    """The requests that pass from here on."""
    with counting(object_server.endpoint) as (endpoint, counts):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        yield counts
        monkeypatch.setenv("AWS_ENDPOINT_URL", object_server.endpoint)


@pytest.fixture
def filled(store, where, recipe, make_codes):
    """Five tracks of 12 to 36 s; the strips."""
    strips = [make_codes(n_samples, row) for row, n_samples in enumerate(LENGTHS)]
    features = store.features(recipe)
    for row, codes in enumerate(strips):
        features.write_strip(row, codes, LENGTHS[row])
    features.commit(list(range(5)), LENGTHS, [""] * 5)
    store.write_segment_teacher([0, 1], [np.full((2, 512), 512**-0.5, np.float16)] * 2)
    store.close()
    return strips


def shards_of(counts) -> list[tuple[str, bool]]:
    """What was asked for of files of single tracks: the path's end, and whether it was a part."""
    requests = [asked for asked in counts.take() if asked.is_of_shard]
    return sorted((asked.path.partition("features.zarr/")[2], asked.range is not None) for asked in requests)


def test_a_shard_is_asked_for_once_and_whole(filled, where, recipe, asked, tmp_path):
    path = CachedPath(where, tmp_path / "cache")

    def epoch() -> list[tuple[str, bool]]:
        store = FeatureStore.open(path)
        features, segments = store.features(recipe), store.segment_vectors()
        asked.take()
        for row, codes in enumerate(filled):
            index = frame_index(LENGTHS[row], recipe)[-1:]
            columns, within = features.columns(row, LENGTHS[row], index)  # a part
            assert np.array_equal(columns[:, within], codes[:, index])
            assert np.array_equal(features.strip(row), codes)
        assert segments.read(1).shape == (2, 512)
        return shards_of(asked)

    mel = [(f"features/audiomuse/mel/c/{row}/0/0", False) for row in range(5)]
    assert epoch() == [*mel, ("segment_teacher/c/1/0/0", False)]
    assert epoch() == []
    # Metadata and columns are never kept.
    kept = [p.relative_to(tmp_path / "cache").parts[1] for p in (tmp_path / "cache").glob("*/*/[0-9]*")]
    assert sorted(kept) == ["features%2Faudiomuse%2Fmel"] * 5 + ["segment_teacher"]
    # The public data sets read through it too, in any process.
    asked.take()
    assert len(list(TrackDataset(path, segment_targets=False))) == 5
    assert shards_of(asked) == []


def test_what_has_no_room_is_read_in_parts_as_before(filled, where, recipe, asked, tmp_path):
    largest = max(FeatureStore.open(where).features(recipe).shards.row_sizes().values())
    features = FeatureStore.open(CachedPath(where, tmp_path, int(1.2 * largest))).features(recipe)
    asked.take()
    for _ in range(2):
        for row, codes in enumerate(filled):
            assert np.array_equal(features.strip(row, LENGTHS[row]), codes)
    # Two fit and stay, the other three come from the bucket each time.
    assert [path.split("/")[4] for path, _ in shards_of(asked)] == list("01223344")
    features.columns(4, LENGTHS[4], frame_index(LENGTHS[4], recipe)[:1])
    parts = shards_of(asked)
    assert parts
    assert all(part for _, part in parts)


def test_a_replaced_shard_is_not_read_from_its_old_copy(
    filled, where, recipe, make_codes, asked, object_server, monkeypatch, tmp_path
):
    path = CachedPath(where, tmp_path / "cache")
    opened = FeatureStore.open(path)
    reader, vectors = opened.features(recipe), opened.segment_vectors()
    assert np.array_equal(reader.strip(2), filled[2])
    assert vectors.read(0).shape == (2, 512)
    longer, same = make_codes(31 * SECONDS, 7), make_codes(LENGTHS[1], 8)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", object_server.endpoint)
        store = FeatureStore.open(path, "r+")
    with store:
        features = store.features(recipe)
        features.write_strip(2, longer, 31 * SECONDS)
        features.write_strip(1, same, LENGTHS[1])
        features.commit([2], [31 * SECONDS], [""])
        store.write_segment_teacher([0], [np.full((3, 512), 512**-0.5, np.float16)])
    # Opened before: the copy does not fit what the table says now.
    assert np.array_equal(reader.strip(2), longer)
    assert vectors.read(0).shape == (3, 512)
    asked.take()
    again = FeatureStore.open(path).features(recipe)
    assert np.array_equal(again.strip(2), longer)
    assert np.array_equal(again.strip(1), same)
    assert shards_of(asked) == [("features/audiomuse/mel/c/1/0/0", False)]


def test_a_damaged_copy_is_fetched_again_and_a_damaged_object_is_said(
    filled, where, recipe, asked, object_server, tmp_path, caplog
):
    path = CachedPath(where, tmp_path / "cache")
    features = FeatureStore.open(path).features(recipe)
    index = frame_index(LENGTHS[1], recipe)[:1]
    features.strip(1, LENGTHS[1])
    (copy,) = tmp_path.glob("cache/*/*/1.*")
    copy.write_bytes(copy.read_bytes()[:-1] + b"\0")
    shards_of(asked)
    with caplog.at_level(logging.WARNING):
        columns, within = features.columns(1, LENGTHS[1], index)
    assert np.array_equal(columns[:, within], filled[1][:, index])
    assert shards_of(asked) == [("features/audiomuse/mel/c/1/0/0", False)]
    assert "is damaged" in caplog.text

    bucket, _, below = where.removeprefix("s3://").partition("/")
    key = f"{below}/features/audiomuse/mel/c/3/0/0".replace(" ", "%20")
    data = bytearray(object_server.get(bucket, key))
    data[len(data) // 2] ^= 1
    object_server.put(bucket, key, bytes(data))
    with pytest.raises(CorruptShardError, match="row 3"):
        FeatureStore.open(path).features(recipe).strip(3)


def test_verify_asks_the_bucket_and_info_says_what_is_kept(filled, where, recipe, asked, tmp_path):
    path = CachedPath(where, tmp_path / "cache")
    features = FeatureStore.open(path).features(recipe)
    features.strip(0)
    features.strip(1)
    del features
    gc.collect()
    shards_of(asked)
    settings = ["--set", f"store.path={where}", "--set", f"store.local_cache={tmp_path / 'cache'}"]
    assert verify_path(path, deep=True) == ([], 5)
    assert len(shards_of(asked)) == 7
    assert CliRunner().invoke(main, ["store", "verify", "--deep", *settings]).exit_code == 0
    assert len(shards_of(asked)) == 7

    info = CliRunner().invoke(main, ["store", "info", *settings, "--set", "store.local_cache_size=1MB"])
    assert "audiomuse: 2 of 5 tracks, " in info.output, info.output
    assert "may take 1.0 MB" in info.output
    (tmp_path / "file").write_text("x")
    refused = CliRunner().invoke(main, ["store", "info", *settings, "--set", f"store.local_cache={tmp_path / 'file'}"])
    assert refused.exit_code == 1
    assert f"Error: store.local_cache: {tmp_path / 'file'} is not a folder; name another" in refused.output
