"""The fast path of the shards: the same bytes to zarr, in both directions and for both chains of codecs."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec

from student_clap.store.arrays.metadata import read_document, write_document
from student_clap.store.arrays.shard import SUPPORTED, ShardFormat
from student_clap.store.layout.frame_order import places
from student_clap.store.layout.runs import runs_of
from student_clap.store.layout.strip import strip_frames, strip_layout

SECONDS = 48_000
pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification")


def mel_array(store, recipe) -> zarr.Array:
    """The strips as plain zarr sees them."""
    return zarr.open_group(str(store.path), mode="r+")[f"features/{recipe.name}/mel"]


def format_of(store, recipe) -> ShardFormat | None:
    """The format that is read from the array's zarr.json."""
    return ShardFormat.of(read_document(store.path / "features" / recipe.name / "mel"))


def like_the_first_stores(store, recipe) -> None:
    """Replace the array by one whose chunks are Blosc's, as zarr makes it."""
    group = zarr.open_group(str(store.path), mode="r+")[f"features/{recipe.name}"]
    mel = group["mel"]
    group.create_array(
        "mel", shape=mel.shape, chunks=mel.chunks, shards=mel.shards, dtype="uint8", fill_value=0, overwrite=True,
        compressors=[BloscCodec(typesize=1, cname="zstd", clevel=5, shuffle="bitshuffle"), Crc32cCodec()],
        dimension_names=("track", "mel_band", "frame"),
    )  # fmt: skip
    folder = store.path / "features" / recipe.name / "mel"
    write_document(folder, read_document(folder))


@pytest.mark.parametrize("first_stores", [False, True])
@pytest.mark.parametrize("seconds", [1, 12, 41, 83, 599])
def test_zarr_reads_what_we_write_and_we_read_what_zarr_writes(
    store, recipe, make_codes, make_older_features, seconds, first_stores
):
    if first_stores:
        make_older_features(store, recipe)
        like_the_first_stores(store, recipe)
    features = store.features(recipe)
    assert format_of(store, recipe).codec == ("blosc" if first_stores else "delta-zstd")
    codes = make_codes(seconds * SECONDS + 5)
    features.write_strip(1, codes, seconds * SECONDS + 5)
    mel = mel_array(store, recipe)
    by_zarr = mel[1]
    layout = strip_layout(seconds * SECONDS + 5, recipe)
    stored_at = places(layout, recipe, "strip" if first_stores else "blocks", np.arange(layout.n_frames))
    assert np.array_equal(by_zarr[:, stored_at], codes)
    assert not by_zarr[:, codes.shape[1] :].any()
    ours = (features.shards / "1/0/0").read_bytes()

    mel[2] = by_zarr
    features.commit([1, 2], [seconds * SECONDS + 5] * 2, ["", ""])
    assert np.array_equal(features.strip(2), codes)
    # The same packed chunks, in zarr's order; only the last may differ where zarr leaves a chunk out.
    assert len((features.shards / "2/0/0").read_bytes()) == len(ours)


def test_a_shard_of_another_make_is_left_to_zarr(store, recipe, make_codes):
    store.features(recipe)
    group = zarr.open_group(str(store.path), mode="r+")[f"features/{recipe.name}"]
    mel = group["mel"]
    group.create_array(
        "mel",
        shape=mel.shape,
        chunks=(1, 128, 1012),
        shards=mel.shards,
        dtype="uint8",
        fill_value=0,
        overwrite=True,
    )
    folder = store.path / "features" / recipe.name / "mel"
    write_document(folder, read_document(folder))
    features = store.features(recipe)
    assert format_of(store, recipe) is None
    codes = make_codes(12 * SECONDS)
    features.write_strip(0, codes, 12 * SECONDS)
    features.commit([0], [12 * SECONDS], [""])
    assert np.array_equal(features.strip(0), codes)


@pytest.mark.parametrize("codec", list(SUPPORTED))
@given(chunk=st.integers(1, 130), n_frames=st.integers(1, 400), seed=st.integers(0, 9), data=st.data())
@settings(max_examples=40, deadline=None)
def test_every_strip_comes_back_whole_and_in_parts(codec, chunk, n_frames, seed, data):
    shards = ShardFormat(n_mels=5, chunk_frames=chunk, n_chunks=-(-400 // chunk), codec=codec)
    codes = np.random.default_rng(seed).integers(1, 256, (5, n_frames), dtype=np.uint8)
    shard = shards.encode(codes)
    assert np.array_equal(shards.decode(shard, n_frames), codes)
    wanted = np.array(data.draw(st.lists(st.integers(0, n_frames - 1), max_size=50)), np.int64)
    assert np.array_equal(shards.decode(shard, n_frames, runs_of(wanted)), codes[:, wanted])
    read = []

    def read_parts(tail, choose):
        read.extend(choose(shard[-tail:], len(shard)))
        return [shard[begin:end] for begin, end in read]

    assert np.array_equal(shards.decode_parts(read_parts, n_frames, runs_of(wanted)), codes[:, wanted])
    assert len(read) == len(np.unique(wanted // chunk))


@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 1000])
def test_a_chunk_of_any_size_is_unpacked(n):
    shards = ShardFormat(n_mels=1, chunk_frames=n, n_chunks=1, codec="delta-zstd")
    codes = np.random.default_rng(n).integers(0, 256, (1, n), dtype=np.uint8)
    first = shards.unpack(memoryview(shards.pack(codes)))
    shards.unpack(memoryview(shards.pack(codes + np.uint8(1))))
    assert np.array_equal(first, codes)  # not overwritten by the next


def test_a_shard_of_a_longer_track_is_refused():
    shards = ShardFormat(n_mels=5, chunk_frames=64, n_chunks=7, codec="delta-zstd")
    data = shards.encode(np.ones((5, 130), np.uint8))
    for fewer in (129, 64):
        with pytest.raises(ValueError, match=f"more than the {fewer} frames"):
            shards.decode(data, fewer)
    assert (shards.decode(data, 131)[:, 130] == 0).all()  # missing, which Features refuses
    for cut in (0, 3, 50, len(data) - 1):
        with pytest.raises(ValueError, match="index"):
            shards.decode(data[:cut], 130)


def test_segments_are_views_of_the_strip_in_decibels(store, recipe, make_codes):
    features = store.features(recipe)
    n_samples = 21 * SECONDS + 17
    codes = make_codes(n_samples)
    assert codes.shape[1] == strip_frames(n_samples, recipe)
    features.write_strip(0, codes, n_samples)
    features.commit([0], [n_samples], [""])
    from student_clap.store.layout.codes import dequantise
    from student_clap.store.layout.strip import frame_index

    expected = dequantise(codes[:, frame_index(n_samples, recipe)].transpose(1, 0, 2), recipe)
    assert np.array_equal(features.segments(0), expected)
