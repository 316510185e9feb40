"""The stream: every track comes once, in order, and errors reach the trainer."""

from __future__ import annotations

import shutil
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from student_clap.store import FeatureStore
from student_clap.train.data.batches import TrackReader, requests_for
from student_clap.train.data.order import epoch_order
from student_clap.train.data.parts import BatchRequest
from student_clap.train.data.stream import BatchStream

if TYPE_CHECKING:
    from tests.train.conftest import Library

pytestmark = pytest.mark.slow  # starts processes

RATE = 48_000


def reader_of(library: Library, segments_per_track: int | None = None, seed: int = 0) -> TrackReader:
    return TrackReader(str(library.store_path), library.recipe, seed=seed, segments_per_track=segments_per_track)


def lengths_of(library: Library) -> np.ndarray:
    return FeatureStore.open(library.store_path).features(library.recipe).n_samples()


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
    before = set(threading.enumerate())
    with (
        BatchStream(reader_of(library), workers=0, pin=False) as stream,
        closing(stream.read(requests_for(np.arange(16), lengths, 1, 0))) as batches,
    ):
        next(batches)
        assert any(thread.name == "batch-reader" for thread in threading.enumerate())
    assert not any(thread.name == "batch-reader" for thread in threading.enumerate())
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {name for name in left if not name.startswith(("zarr", "asyncio_"))}  # zarr's own may have come


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
