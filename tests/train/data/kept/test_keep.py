"""What is kept from one epoch to the next: the same batches, whatever is kept, and nothing read twice."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch

from student_clap.store import Features, FeatureStore
from student_clap.store.arrays.segment_vectors import SegmentVectors
from student_clap.store.layout.segments import segment_count
from student_clap.train.data.batches import Batch, TrackReader, make_segments, requests_for
from student_clap.train.data.kept import keep as keep_module
from student_clap.train.data.kept.cache import CacheFile, offsets_within
from student_clap.train.data.kept.keep import Keeping, keep
from student_clap.train.data.stream import BatchStream

if TYPE_CHECKING:
    from tests.train.conftest import Library

pytestmark = pytest.mark.slow  # starts processes

CPU = torch.device("cpu")
WHOLE = 10**9


def batches_of(
    library: Library,
    mode: str,
    size_bytes: int | None = WHOLE,
    workers: int = 0,
    epochs: int = 2,
    order: slice = slice(None),
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
        asked = rows[order]
        requests = [r for epoch in range(epochs) for r in requests_for(asked, n_samples, 2, epoch)]
        requests += requests_for(asked, n_samples, 2, None)
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


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["kept ones first", "kept ones last"])
@pytest.mark.parametrize("mode", ["memory", "device"])
def test_what_has_no_room_is_read_from_the_store(library: Library, mode: str, order: slice) -> None:
    _, _, plain = batches_of(library, "none", order=order)
    keeping, _, _ = batches_of(library, mode, order=order)
    room = keeping.n_bytes * 2 // 3
    part, _, decibels = batches_of(library, mode, size_bytes=room, order=order)
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
    overhead = n_rows + len(strips.token)
    assert strips.n_bytes <= free // 2 + overhead
    assert vectors.n_bytes <= free // 10 + overhead


def test_rows_are_given_room_in_order_until_one_has_none() -> None:
    sizes = np.array([5, 0, 7, 4, 1])
    assert offsets_within(sizes, np.array([2, 0, 3, 4]), 12).tolist() == [7, -1, 0, -1, -1]
    assert offsets_within(sizes, np.array([2, 0, 3, 4]), 6).tolist() == [-1] * 5
    assert offsets_within(sizes, np.arange(5), 100).tolist() == [0, 5, 5, 12, 16]


def test_a_block_reads_as_it_was_put_or_is_not_there() -> None:
    with CacheFile.make(np.array([3, 4]), np.array([0, 1]), 5) as file:
        one, other = file.handle.open(), file.handle.open()
        assert one.get(0, 3) is None
        one.put(0, np.array([1, 2, 3], np.uint8))
        one.put(1, np.array([9, 9, 9, 9], np.uint8))  # has no room
        found = other.get(0, 3)
        assert found is not None
        assert found.tolist() == [1, 2, 3]
        assert not found.flags.writeable
        assert other.get(1, 4) is None


def test_another_file_is_never_taken_for_the_cache(tmp_path: Path) -> None:
    with CacheFile.make(np.array([3]), np.array([0]), 5) as file:
        for content in (b"", bytes(file.handle.n_bytes)):  # what lies at the same path on another machine
            (tmp_path / "other").write_bytes(content)
            elsewhere = replace(file.handle, path=str(tmp_path / "other"))
            for take in (elsewhere.open, lambda handle=elsewhere: CacheFile.join(handle)):
                with pytest.raises(FileNotFoundError, match="not the cache"):
                    take()
            assert (tmp_path / "other").read_bytes() == content
    with pytest.raises(OSError, match=file.handle.path):
        CacheFile.join(file.handle)  # its owner has closed it


def test_without_room_nothing_is_kept_and_it_is_said(
    library: Library, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, plain = batches_of(library, "none")

    def full(_descriptor: int, _n_bytes: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "ftruncate", full)
    keeping, _, decibels = batches_of(library, "memory")
    assert keeping.mode == "none"
    assert all(torch.equal(one, other) for one, other in zip(plain, decibels, strict=True))
    said = capsys.readouterr().err
    assert said.count("reads every track again: ") == said.count("No space left on device") == 1
    assert not [link for link in Path("/proc/self/fd").iterdir() if "student-clap-cache" in str(link.resolve())]


PROCESS = """
import json, os, signal, sys
import numpy as np
import torch
from student_clap.store import Features, FeatureStore
from student_clap.train.data.batches import TrackReader, requests_for
from student_clap.train.data.kept.keep import Sharers, keep
from student_clap.train.loop.distributed import join_processes

path, read, strip = sys.argv[1], [], Features.strip
Features.strip = lambda self, row, n_samples=None: read.append(row) or strip(self, row, n_samples)
store = FeatureStore.open(path)
(recipe,) = store.recipes().values()
features = store.features(recipe)
n_samples = features.n_samples()
rows = np.flatnonzero(n_samples > 0)
with join_processes("cpu") as group:
    sharers = Sharers(group.gather, makes=group.is_first_here)
    taught = store.n_segment_teacher()
    with keep("memory", 10**9, features, rows, n_samples, taught, torch.device("cpu"), sharers) as keeping:
        reader = TrackReader(path, recipe, seed=5, segments_per_track=2, segment_targets=True, kept=keeping.kept)
        (request,) = requests_for(rows, n_samples, len(rows), 0)
        for turn in range(2):
            if turn == group.rank:
                batch = reader.read(request)
            group.wait()
        print(json.dumps({"decoded": read, "sum": int(batch.codes.sum()), "share": keeping.share}), flush=True)
        if group.is_main:
            os.kill(os.getpid(), signal.SIGKILL)
        sys.stdin.readline()  # until the other, which made the cache, is dead
        late = TrackReader(path, recipe, seed=5, segments_per_track=2, segment_targets=True, kept=keeping.kept)
        print(json.dumps({"decoded": read, "sum": int(late.read(request).codes.sum())}), flush=True)
        os._exit(0)  # without the other there is no leaving the group
"""


def test_two_processes_of_a_machine_have_one_cache_which_outlives_either(library: Library) -> None:
    meeting = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(meeting.port), "OMP_NUM_THREADS": "1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # it is there: neither has to open it
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(library.store_path)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [json.loads(process.stdout.readline()) for process in processes if process.stdout]
        assert processes[0].wait(60) == -signal.SIGKILL
        out, _ = processes[1].communicate("\n", timeout=60)
        late = json.loads(out)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
    assert [sorted(one["decoded"]) for one in said] == [[0, 1, 2, 3], []]
    assert [one["share"] for one in said] == [1.0, 1.0]
    assert said[0]["sum"] == said[1]["sum"] == late["sum"]
    assert late["decoded"] == []
