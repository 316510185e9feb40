"""The folder of copies: its size is kept, what is in stays, damage and kills cost copies and nothing else."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopback.processes import ENOUGH_S
from student_clap.store.storage.checked_file import BLOCK, DamagedError, encoded, header_bytes, read_parts
from student_clap.store.storage.copies import Copies, Version
from student_clap.store.storage.errors import StoreError
from student_clap.store.storage.local_cache import LocalCache

STORE, ARRAY = "s3://b/features.zarr", "features/audiomuse/mel"
SIZE = 10_000
FILE = SIZE + header_bytes(SIZE)

# Reads all rows, beginning with one of them, and copies those that are not there.
READER = """
import sys
from pathlib import Path
from student_clap.store.storage.copies import Copies, Version
from student_clap.store.storage.local_cache import LocalCache
folder, size, n_rows, first = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
cache = LocalCache(folder, size)
copies = Copies(cache, "s3://b/features.zarr", "features/audiomuse/mel",
                {row: Version(f"{row:016x}", 10_000) for row in range(n_rows)})
print("ready", flush=True)
for n in range(n_rows):
    row = (first + n) % n_rows
    data = row.to_bytes(4, "little") * 2500
    found = copies.read(row, 0, lambda _, size: [(0, size)])
    if found is None:
        copies.fetch(row, lambda: (data, copies.versions[row]))
    else:
        assert found == [data]
"""


def content(row: int) -> bytes:
    """Of a row's object."""
    return row.to_bytes(4, "little") * (SIZE // 4)


def versions(n_rows: int) -> dict[int, Version]:
    """Of the objects of an array."""
    return {row: Version(f"{row:016x}", SIZE) for row in range(n_rows)}


def read(copies: Copies, row: int) -> bytes | None:
    """The whole copy."""
    found = copies.read(row, 0, lambda _, size: [(0, size)])
    return None if found is None else found[0]


def fill(copies: Copies) -> list[int]:
    """Fetch every row that is not there; those that are there then."""
    for row in copies.versions:
        if read(copies, row) is None:
            copies.fetch(row, lambda row=row: (content(row), copies.versions[row]))
    return [row for row in copies.versions if read(copies, row) == content(row)]


def stored(folder: Path) -> int:
    """Bytes of the copies that are really there."""
    return sum(path.stat().st_size for path in folder.rglob("[0-9]*.*"))


def counted(folder: Path) -> int:
    """Bytes that the folder says it has."""
    return int((folder / ".used").read_text())


# --- one file


@given(
    data=st.binary(max_size=200).map(lambda part: part * 1500),
    ends=st.lists(st.floats(0, 1), min_size=2),
    tail=st.integers(0, 50_000),
)
def test_parts_are_those_of_the_bytes(tmp_path_factory, data, ends, tail):
    path = tmp_path_factory.getbasetemp() / "checked"
    path.write_bytes(b"".join(encoded("a/b", data)))
    places = [int(end * len(data)) for end in ends]
    wanted = [(min(pair), max(pair)) for pair in itertools.pairwise(places)]

    def choose(end: bytes, size: int) -> list[tuple[int, int]]:
        assert (end, size) == (data[max(0, len(data) - tail) :], len(data))
        return wanted

    assert read_parts(path, "a/b", len(data), tail, choose) == [data[begin:end] for begin, end in wanted]


def test_a_flipped_bit_is_damage_or_not_read(tmp_path):
    data = random.Random(1).randbytes(3 * BLOCK + 1000)
    whole = b"".join(encoded("n", data))
    path, part = tmp_path / "f", (BLOCK + 5, BLOCK + 900)
    header = header_bytes(len(data))
    for at in (0, 9, header - 1, header + BLOCK + 7, header + 2 * BLOCK - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DamagedError, match="crc32c"):
            read_parts(path, "n", len(data), 0, lambda *_: [part])
    path.write_bytes(whole[:-1])
    with pytest.raises(DamagedError, match="size"):
        read_parts(path, "n", len(data), 0, lambda *_: [part])
    path.write_bytes(whole)
    with pytest.raises(DamagedError):  # another's
        read_parts(path, "m", len(data), 0, lambda *_: [part])
    assert read_parts(path, "n", len(data), 0, lambda *_: [part]) == [data[part[0] : part[1]]]


# --- the size


def test_what_is_in_stays_whatever_the_order(tmp_path):
    cache = LocalCache(tmp_path, 5 * FILE + 10)
    copies = Copies(cache, STORE, ARRAY, versions(20))
    assert fill(copies) == [0, 1, 2, 3, 4]
    copies.versions = dict(reversed(copies.versions.items()))
    assert sorted(fill(copies)) == [0, 1, 2, 3, 4]
    assert stored(tmp_path) == counted(tmp_path) == 5 * FILE
    assert sum(copies.there().values()) == 5 * SIZE
    # Nor does another array that is open take its place.
    other = Copies(LocalCache(tmp_path, 5 * FILE + 10), "s3://b/other.zarr", ARRAY, versions(3))
    assert fill(other) == []
    assert len(copies.there()) == 5


@pytest.mark.slow
def test_room_is_made_by_outdated_contents_and_by_what_nobody_has_open(tmp_path):
    def open_and_fill(store: str, n_rows: int, **changed: Version) -> list[int]:
        copies = Copies(
            LocalCache(tmp_path, 6 * FILE),
            store,
            ARRAY,
            {**versions(n_rows), **{int(k[1:]): v for k, v in changed.items()}},
        )
        there = fill(copies)
        del copies
        gc.collect()
        return there

    assert len(open_and_fill("s3://b/one", 3)) == 3
    (one,) = tmp_path.glob("one-*/*")
    os.utime(one / ".in-use", (1, 1))  # long ago
    assert len(open_and_fill("s3://b/two", 3)) == 3
    assert len(open_and_fill("s3://b/three", 2)) == 2
    assert [len(list(tmp_path.glob(f"{name}-*/*/[0-9]*"))) for name in ("one", "two", "three")] == [1, 3, 2]
    # An object was replaced: its former content goes first.
    assert len(open_and_fill("s3://b/three", 2, r1=Version("f" * 16, SIZE))) == 2
    assert [len(list(tmp_path.glob(f"{name}-*/*/[0-9]*"))) for name in ("one", "two", "three")] == [1, 3, 2]
    assert stored(tmp_path) == counted(tmp_path) == 6 * FILE


def test_without_a_size_half_of_the_free_disk(tmp_path):
    cache = LocalCache(tmp_path, None)
    assert 0.4 * shutil.disk_usage(tmp_path).free < cache.size < 0.6 * shutil.disk_usage(tmp_path).free


@pytest.mark.slow
def test_two_processes_share_the_size_and_a_kill_costs_nothing(tmp_path):
    n_rows = 400
    size = 300 * FILE

    def start(first: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", READER, tmp_path, size, n_rows, first]
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)

    with start(0) as killed, start(100) as other:
        assert killed.stdout.readline() == other.stdout.readline() == "ready\n"
        while len(list(tmp_path.glob("*/*/[0-9]*"))) < 40:
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        assert other.wait(ENOUGH_S) == 0
    assert stored(tmp_path) <= counted(tmp_path) <= size
    (tmp_path / next(tmp_path.glob("*/*")) / ".left.partial").write_bytes(b"half")
    with start(200) as again:
        assert again.wait(ENOUGH_S) == 0
    assert stored(tmp_path) == counted(tmp_path) == size
    assert not list(tmp_path.rglob("*.partial"))


# --- faults


def test_a_damaged_copy_is_no_copy(tmp_path, caplog):
    copies = Copies(LocalCache(tmp_path, 10 * FILE), STORE, ARRAY, versions(3))
    fill(copies)
    (path,) = tmp_path.glob("*/*/1.*")
    data = bytearray(path.read_bytes())
    data[-5] ^= 16
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert [read(copies, row) for row in range(3)] == [content(0), None, content(2)]
    assert "is damaged (the crc32c of block 0 is wrong); it is fetched again" in caplog.text
    assert fill(copies) == [0, 1, 2]
    assert stored(tmp_path) == counted(tmp_path) == 3 * FILE


def test_a_folder_that_was_deleted_costs_the_copies(tmp_path, caplog):
    folder = tmp_path / "cache"
    copies = Copies(LocalCache(folder, 10 * FILE), STORE, ARRAY, versions(3))
    fill(copies)
    shutil.rmtree(folder)
    with caplog.at_level(logging.WARNING):
        assert fill(copies) == []
    assert caplog.text.count("store.local_cache") == 1
    assert fill(Copies(LocalCache(folder, 10 * FILE), STORE, ARRAY, versions(3))) == [0, 1, 2]


def test_what_cannot_be_a_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"file is not a folder; name another"):
        LocalCache(tmp_path / "file", None)


def test_what_could_not_be_fetched_takes_no_room(tmp_path):
    copies = Copies(LocalCache(tmp_path, 3 * FILE), STORE, ARRAY, versions(2))

    def gone() -> tuple[bytes, Version]:
        raise FileNotFoundError("gone")

    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            copies.fetch(0, gone)
    assert counted(tmp_path) == 0
    # Of one that was replaced the new content is kept.
    larger = content(0) * 2
    new = Version("a" * 16, len(larger))
    assert copies.fetch(0, lambda: (larger, new)) == larger
    assert read(copies, 0) == larger
    assert counted(tmp_path) == stored(tmp_path) > 2 * SIZE


def test_what_could_not_be_written_takes_no_room(tmp_path):
    cache = LocalCache(tmp_path, 3 * FILE)
    folder = cache.open_array(STORE, ARRAY, set())
    assert cache.reserve(100)
    cache.keep(folder / "no-such-folder" / "0.a", [b"x" * 100])  # it says so, and goes on without copies
    assert counted(tmp_path) == 0
