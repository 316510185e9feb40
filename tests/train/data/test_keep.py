"""What is kept from one epoch to the next: the same batches, whatever is kept, and nothing read twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch

from student_clap.store import Features, FeatureStore
from student_clap.store.arrays.segment_vectors import SegmentVectors
from student_clap.store.layout.segments import segment_count
from student_clap.train.data import keep as keep_module
from student_clap.train.data.batches import Batch, TrackReader, make_segments, requests_for
from student_clap.train.data.cache import CacheFile, offsets_within
from student_clap.train.data.keep import Keeping, keep
from student_clap.train.data.stream import BatchStream

if TYPE_CHECKING:
    from tests.train.conftest import Library

pytestmark = pytest.mark.slow  # starts processes

CPU = torch.device("cpu")
WHOLE = 10**9


def batches_of(
    library: Library, mode: str, size_bytes: int | None = WHOLE, workers: int = 0, epochs: int = 2
) -> tuple[Keeping, list[Batch], list[torch.Tensor]]:
    """Two epochs of a few segments, and all segments once; batches and their decibels."""
    store = FeatureStore.open(library.store_path)
    features = store.features(library.recipe)
    n_samples = features.n_samples()
    rows = np.flatnonzero(n_samples > 0)
    with keep(mode, size_bytes, features, rows, n_samples, store.n_segment_teacher(), CPU) as keeping:
        reader = TrackReader(
            str(library.store_path),
            library.recipe,
            seed=5,
            segments_per_track=2,
            segment_targets=True,
            kept=keeping.kept,
        )
        requests = [r for epoch in range(epochs) for r in requests_for(rows, n_samples, 2, epoch)]
        requests += requests_for(rows, n_samples, 2, None)
        with BatchStream(reader, workers=workers, pin=False) as stream:
            found = list(stream.read(requests))
        decibels = [make_segments(b.codes, b.index, library.recipe, keeping.resident) for b in found]
    return keeping, found, decibels


@pytest.fixture
def library(make: Callable[..., Library]) -> Library:
    """Four tracks whose segments the teacher knows."""
    made = make([5.0, 2.5, 6.2, 1.0])
    rng = np.random.default_rng(1)
    with FeatureStore.open(made.store_path, "r+") as store:
        lengths = store.features(made.recipe).n_samples().tolist()
        vectors = [rng.normal(size=(segment_count(n, made.recipe), 512)).astype(np.float16) for n in lengths]
        store.write_segment_teacher(list(range(len(lengths))), vectors)
    return made


@pytest.mark.parametrize(("mode", "workers"), [("memory", 0), ("memory", 2), ("device", 0), ("device", 1)])
def test_batches_are_the_same_whatever_is_kept(library: Library, mode: str, workers: int) -> None:
    _, plain, plain_decibels = batches_of(library, "none")
    keeping, kept, decibels = batches_of(library, mode, workers=workers)
    assert keeping.share == 1.0
    assert len(kept) == len(plain)
    assert all(all(batch.taught) for batch in plain)
    for one, other, one_db, other_db in zip(plain, kept, plain_decibels, decibels, strict=True):
        assert torch.equal(one_db, other_db)
        assert one.rows == other.rows
        for name in ("at", "weights", "segment_teacher", "random_numbers"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert mode != "device" or other.codes.shape[1] == 0  # nothing is shipped


@pytest.mark.parametrize("mode", ["memory", "device"])
def test_what_has_no_room_is_read_from_the_store(library: Library, mode: str) -> None:
    _, _, plain = batches_of(library, "none")
    keeping, _, _ = batches_of(library, mode)
    room = keeping.n_bytes * 2 // 3
    part, _, decibels = batches_of(library, mode, size_bytes=room)
    assert 0 < part.share < 1
    assert part.n_bytes <= room
    assert f"{part.share:.0%} of the library; the rest is read" in part.description
    assert all(torch.equal(one, other) for one, other in zip(plain, decibels, strict=True))


def test_nothing_is_decoded_twice(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    strip = Features.strip

    def counted(self: Features, row: int, n_samples: int | None = None) -> npt.NDArray[np.uint8]:
        read.append(row)
        return strip(self, row, n_samples)

    taught: list[int] = []
    vectors = SegmentVectors.read

    def counted_vectors(self: SegmentVectors, row: int, n: int | None = None) -> npt.NDArray[np.float16]:
        taught.append(row)
        return vectors(self, row, n)

    monkeypatch.setattr(Features, "strip", counted)
    monkeypatch.setattr(SegmentVectors, "read", counted_vectors)
    for mode in ("memory", "device"):
        read.clear()
        taught.clear()
        batches_of(library, mode, epochs=3)
        assert sorted(read) == sorted(taught) == [0, 1, 2, 3], mode


def test_without_a_size_it_takes_half_of_the_free_memory_and_a_tenth_for_vectors(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 80_000
    monkeypatch.setattr(keep_module, "free_memory_bytes", lambda: free)
    keeping, _, _ = batches_of(library, "memory", size_bytes=None)
    strips, vectors = keeping.kept.strips, keeping.kept.vectors
    assert strips is not None
    assert vectors is not None
    n_rows = len(strips.offsets)
    assert 0 < keeping.share < 1
    assert strips.n_bytes <= free // 2 + n_rows
    assert vectors.n_bytes <= free // 10 + n_rows


def test_rows_are_given_room_in_order_until_one_has_none() -> None:
    sizes = np.array([5, 0, 7, 4, 1])
    assert offsets_within(sizes, np.array([2, 0, 3, 4]), 12).tolist() == [7, -1, 0, -1, -1]
    assert offsets_within(sizes, np.array([2, 0, 3, 4]), 6).tolist() == [-1] * 5
    assert offsets_within(sizes, np.arange(5), 100).tolist() == [0, 5, 5, 12, 16]


def test_a_block_reads_as_it_was_put_or_is_not_there() -> None:
    with CacheFile(np.array([3, 4]), np.array([0, 1]), 5) as file:
        one, other = file.handle.open(), file.handle.open()
        assert one.get(0, 3) is None
        one.put(0, np.array([1, 2, 3], np.uint8))
        one.put(1, np.array([9, 9, 9, 9], np.uint8))  # has no room
        found = other.get(0, 3)
        assert found is not None
        assert found.tolist() == [1, 2, 3]
        assert not found.flags.writeable
        assert other.get(1, 4) is None
