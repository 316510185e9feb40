"""Batches: their content is the store's, and they are cut as asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from student_clap.store import FeatureStore
from student_clap.store.layout.segments import segment_starts
from student_clap.train.data.batches import TrackReader, make_segments, plan_micro_batches, requests_for
from student_clap.train.data.order import choose_segments, epoch_order
from student_clap.train.data.parts import BatchRequest

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


@given(n=st.integers(0, 40), world_size=st.integers(1, 7), batch_size=st.integers(1, 9), epoch=st.integers(0, 3))
def test_every_track_comes_once_per_epoch_whatever_the_number_of_processes(
    n: int, world_size: int, batch_size: int, epoch: int
) -> None:
    lengths = np.arange(1, n + 1)
    order = epoch_order(n, 5, epoch)
    shares = [
        requests_for(order, lengths, batch_size, epoch, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    alone = requests_for(order, lengths, batch_size, epoch)
    assert {len(requests) for requests in shares} == {len(alone)}
    for number, whole in enumerate(alone):
        assert tuple(row for requests in shares for row in requests[number].rows) == whole.rows
    assert sorted(row for request in alone for row in request.rows) == list(range(n))


@given(st.lists(st.integers(1, 130), max_size=40), st.integers(1, 200))
def test_micro_batches_hold_whole_tracks_in_order_within_the_limit(counts: list[int], limit: int) -> None:
    parts = plan_micro_batches(counts, limit)
    assert [track for tracks in parts for track in tracks] == list(range(len(counts)))
    assert all(len(tracks) == 1 or sum(counts[t] for t in tracks) <= limit for tracks in parts)
