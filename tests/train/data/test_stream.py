"""Batches: what is in them, and that each track comes once."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from student_clap.store import FeatureStore
from student_clap.store.layout.segments import segment_starts
from student_clap.train.data.batches import BatchRequest, TrackReader, make_segments, requests_for
from student_clap.train.data.mel_statistics import band_statistics
from student_clap.train.data.order import choose_segments, epoch_order
from student_clap.train.data.stream import BatchStream
from student_clap.train.loop.distributed import Ranks

if TYPE_CHECKING:
    from tests.train.conftest import Library

RATE = 48_000


def reader_of(library: Library, segments_per_track: int | None = None, seed: int = 0) -> TrackReader:
    return TrackReader(str(library.store_path), library.recipe, seed=seed, segments_per_track=segments_per_track)


def lengths_of(library: Library) -> np.ndarray:
    return FeatureStore.open(library.store_path).features(library.recipe).n_samples()


def test_a_batch_gives_the_store_s_segments_and_production_s_mean(library: Library) -> None:
    features = FeatureStore.open(library.store_path).features(library.recipe)
    lengths = features.n_samples()
    rows = tuple(range(len(lengths)))
    batch = reader_of(library).read(BatchRequest(rows, tuple(int(n) for n in lengths), None))
    decibels = make_segments(batch.codes, batch.index, library.recipe)
    assert decibels.shape == (batch.n_segments, 1, library.recipe.n_mels, library.recipe.segment_frames)
    begin = 0
    for track, row in enumerate(batch.rows):
        stored = features.segments(row)
        end = begin + batch.segments_of[track]
        mine = decibels[begin:end, 0].numpy()
        # Distinct segments are shipped once, and weigh as often as production counts them.
        distinct = [0, *(s for s in range(1, len(stored)) if not np.array_equal(stored[s], stored[s - 1]))]
        assert np.array_equal(mine, stored[distinct])
        weights = batch.weights[track].numpy()
        assert np.count_nonzero(weights) == end - begin
        expected = stored.astype(np.float64).mean(axis=0)
        mean = np.einsum("s,smf->mf", weights[begin:end].astype(np.float64), mine)
        np.testing.assert_allclose(mean, expected, rtol=1e-5)
        begin = end
    assert begin == batch.n_segments
    # 2.0, 4.0, ... are whole multiples of the hop: production counts their last segment twice.
    assert batch.n_segments < sum(len(segment_starts(int(n), library.recipe)) for n in lengths)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=st.integers(1, 30), epoch=st.integers(0, 9), seed=st.integers(0, 9))
def test_a_choice_of_segments_ships_the_columns_it_needs(library: Library, wanted: int, epoch: int, seed: int) -> None:
    features = FeatureStore.open(library.store_path).features(library.recipe)
    row, n_samples = 13, int(features.n_samples()[13])
    batch = reader_of(library, wanted, seed).read(BatchRequest((row,), (n_samples,), epoch))
    stored = features.segments(row)
    chosen = choose_segments(len(stored), wanted, seed, epoch, row)
    decibels = make_segments(batch.codes, batch.index, library.recipe)[:, 0].numpy()
    expected = stored[chosen].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(np.einsum("s,smf->mf", batch.weights[0].double().numpy(), decibels), expected, rtol=1e-5)
    assert set(batch.index.unique().tolist()) == set(range(batch.codes.shape[1]))  # no column in vain


def test_validation_takes_all_segments_whatever_is_chosen_for_training(library: Library) -> None:
    n_samples = int(lengths_of(library)[13])
    request = BatchRequest((13,), (n_samples,), None)
    assert reader_of(library, 2).read(request).n_segments == reader_of(library).read(request).n_segments > 2


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_track_comes_once_per_epoch_in_order(library: Library, workers: int) -> None:
    lengths = lengths_of(library)
    with BatchStream(reader_of(library, 3), workers=workers, pin=False) as stream:
        for epoch in (0, 1):
            order = epoch_order(len(lengths), 0, epoch)
            batches = list(stream.read(requests_for(order, lengths, 5, epoch)))
            assert [row for batch in batches for row in batch.rows] == order.tolist()
            direct = [reader_of(library, 3).read(request) for request in requests_for(order, lengths, 5, epoch)]
            for batch, expected in zip(batches, direct, strict=True):
                assert torch.equal(batch.codes, expected.codes)
                assert torch.equal(batch.index, expected.index)
                assert torch.equal(batch.weights, expected.weights)


def test_a_stream_that_is_left_early_ends_its_thread(library: Library) -> None:
    lengths = lengths_of(library)
    before = threading.active_count()
    with (
        BatchStream(reader_of(library), workers=0, pin=False) as stream,
        closing(stream.read(requests_for(np.arange(16), lengths, 1, 0))) as batches,
    ):
        next(batches)
        assert any(thread.name == "batch-reader" for thread in threading.enumerate())
    assert not any(thread.name == "batch-reader" for thread in threading.enumerate())
    assert threading.active_count() <= before + 1  # zarr's own loop may have come


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_the_reader_reaches_the_trainer(library: Library, workers: int) -> None:
    reader = reader_of(library)
    shutil.rmtree(library.store_path)
    with (
        BatchStream(reader, workers=workers, pin=False) as stream,
        pytest.raises(Exception, match="there is no feature store"),
    ):
        list(stream.read([BatchRequest((0,), (RATE,), 0)]))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_track_that_cannot_be_read_is_named_and_the_rest_comes(library: Library, workers: int) -> None:
    lengths = lengths_of(library)
    (shard,) = (library.store_path / "features").rglob("c/3/0/0")
    shard.unlink()
    with BatchStream(reader_of(library), workers=workers, pin=False) as stream:
        (batch,) = stream.read(requests_for(np.array([2, 3, 4]), lengths, 3, 0))
    assert batch.rows == (2, 4)
    ((row, reason),) = batch.failures
    assert row == 3
    assert "shard is gone" in reason
    assert batch.weights.shape[0] == 2


def test_the_mel_statistics_are_those_of_the_strips(make: Callable[..., Library]) -> None:
    library = make([1.0, 3.0, 2.5])
    features = FeatureStore.open(library.store_path).features(library.recipe)
    lengths = features.n_samples()
    mean, std = band_statistics(features, np.array([0, 2]), lengths, seed=0)
    frames = np.concatenate([features.strip(0), features.strip(2)], axis=1).astype(np.float64)
    decibels = frames * library.recipe.scale_db + library.recipe.offset_db
    np.testing.assert_allclose(mean, decibels.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(std, decibels.std(axis=1), rtol=1e-6)


def test_a_shifted_segment_lies_between_its_neighbours(library: Library) -> None:
    """Its frames are the track's own at that place, its teacher vector that of the place."""
    with FeatureStore.open(library.store_path, "r+") as store:
        n_samples = int(store.features(library.recipe).n_samples()[13])
        starts = segment_starts(n_samples, library.recipe)
        rng = np.random.default_rng(0)
        vectors = rng.normal(size=(len(starts), 512))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        store.write_segment_teacher([13], [vectors.astype(np.float16)])
        strip = store.features(library.recipe).strip(13)
    reader = TrackReader(
        str(library.store_path), library.recipe, seed=0, segments_per_track=6, shift_s=0.2, segment_targets=True
    )
    plain = reader_of(library, 6).read(BatchRequest((13,), (n_samples,), 3))
    moved = reader.read(BatchRequest((13,), (n_samples,), 3))
    assert torch.equal(moved.weights, plain.weights)
    hop = library.recipe.hop_samples
    offsets = []
    chosen = choose_segments(len(starts), 6, 0, 3, 13)
    assert len(np.unique(starts[chosen])) == len(chosen)
    for segment, start in enumerate(starts[chosen]):
        frames = moved.codes[:, moved.index[segment]].numpy()
        # Where in the track's own grid frames it is found: there is one place, at most 0.2 s away.
        found = [
            first
            for first in range(strip.shape[1] - frames.shape[1] + 1)
            if np.array_equal(strip[:, first : first + frames.shape[1]], frames)
        ]
        assert len(found) == 1
        at = (found[0] + library.recipe.edge_frames) * hop
        offsets.append((at - start) // hop)
        expected = [np.interp(at, starts, column) for column in vectors.T]
        mixed = np.array(expected) / np.linalg.norm(expected)
        np.testing.assert_allclose(moved.segment_teacher[segment].numpy(), mixed, atol=2e-3)
    assert len(set(offsets)) > 1
    assert all(abs(offset) <= 0.2 * 48_000 / hop + 1 for offset in offsets[:-1])


def test_a_track_without_segment_vectors_has_zeros_for_them(library: Library) -> None:
    reader = TrackReader(str(library.store_path), library.recipe, seed=0, segments_per_track=None, segment_targets=True)
    batch = reader.read(BatchRequest((3,), (int(lengths_of(library)[3]),), 0))
    assert batch.segment_teacher.shape == (batch.n_segments, 512)
    assert not batch.segment_teacher.any()


@given(n=st.integers(0, 40), world=st.integers(1, 7), batch_size=st.integers(1, 9), epoch=st.integers(0, 3))
def test_every_track_comes_once_per_epoch_whatever_the_number_of_processes(
    n: int, world: int, batch_size: int, epoch: int
) -> None:
    lengths = np.arange(1, n + 1)
    order = epoch_order(n, 5, epoch)
    shares = [requests_for(order, lengths, batch_size, epoch, Ranks(rank, world)) for rank in range(world)]
    alone = requests_for(order, lengths, batch_size, epoch)
    assert {len(requests) for requests in shares} == {len(alone)}
    for number, whole in enumerate(alone):
        assert tuple(row for requests in shares for row in requests[number].rows) == whole.rows
    assert sorted(row for request in alone for row in request.rows) == list(range(n))
