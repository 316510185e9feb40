"""Codes and segment vectors that were read once, kept in memory for the epochs that follow.

One copy serves the process that made it and those that it tells of it, such as its loader's and the other processes of
torchrun on this machine: the pages are those of an open file without a name (memfd), which no size of /dev/shm limits
and which the others reach through /proc; it is gone when the last of them ends, however that ends. Where the system has
no such files it is a temporary file, removed at the end.

Guarantee: a block reads as it was put, or is not there; a block may be put twice, with the same content. Readers and
their numbers are those without the cache. A handle never opens another file than its own.
Cost: `budget_bytes` at most, taken as blocks are put.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from student_clap.config.schema import EMBEDDING_DIM
from student_clap.store.layout.runs import Run

Sizes = npt.NDArray[np.int64]
Frames = TypeVar("Frames", int, Sizes)
_COLUMNS = 512  # of a strip that lie in one piece: read in half the time of rows that are as long as the strip
_NAMELESS = hasattr(os, "memfd_create")


def offsets_within(sizes: Sizes, rows: npt.NDArray[np.int64], budget: int) -> Sizes:
    """Where the blocks of `rows` lie one after the other, as many as fit.

    Args:
        sizes: [row] of a block.
        rows: in the order in which they are given room.
        budget: room for all of them, in the unit of `sizes`.

    Returns:
        [row] int64, -1 for a row that has no room.
    """
    offsets = np.full(len(sizes), -1, np.int64)
    ends = np.cumsum(sizes[rows])
    # Blocks are given room in order until the first that does not fit.
    n = int(np.searchsorted(ends, budget, side="right"))
    offsets[rows[:n]] = ends[:n] - sizes[rows[:n]]
    return offsets


@dataclass(frozen=True)
class CacheHandle:
    """A cache as another process of the machine finds it. Picklable."""

    path: str
    token: bytes  # the file begins with it
    n_bytes: int
    offsets: Sizes  # [row] of the block, in bytes behind the marks; -1: none

    def open(self) -> BlockCache:
        """Map the cache. Raises OSError where its owner has ended, or is on another machine."""
        with Path(self.path).open("r+b") as file:
            self.check(file.fileno())
            return BlockCache(self, mmap.mmap(file.fileno(), self.n_bytes))

    def check(self, descriptor: int) -> None:
        """Raise OSError where the open file is another: elsewhere the same path may be anything."""
        if os.pread(descriptor, len(self.token), 0) != self.token:
            raise FileNotFoundError(f"{self.path} is not the cache that it was on its own machine")


class BlockCache:
    """Blocks of bytes by row."""

    def __init__(self, handle: CacheHandle, mapped: mmap.mmap) -> None:
        n_rows = len(handle.offsets)
        self._offsets = handle.offsets
        whole = np.frombuffer(mapped, np.uint8)[len(handle.token) :]
        # A row's mark is set after its block is written.
        self._marks, self._blocks = whole[:n_rows], whole[n_rows:]

    def get(self, row: int, n_bytes: int) -> npt.NDArray[np.uint8] | None:
        """The block of `row`, not to be written to; None where it was not put."""
        if not self._marks[row]:
            return None
        block = self._blocks[self._offsets[row] : self._offsets[row] + n_bytes]
        block.flags.writeable = False
        return block

    def put(self, row: int, block: npt.NDArray[np.uint8]) -> None:
        """Keep a copy of `block`, [byte]; nothing happens where the row has no room."""
        offset = int(self._offsets[row])
        if offset >= 0 and not self._marks[row]:
            self._blocks[offset : offset + len(block)] = block
            self._marks[row] = 1


class CacheFile:
    """The memory of a cache, held by a process that others find it through. Use as a context manager."""

    def __init__(self, descriptor: int, handle: CacheHandle, named: Path | None = None) -> None:
        self._descriptor, self._named = descriptor, named
        self.handle = handle

    @classmethod
    def make(cls, sizes: Sizes, rows: npt.NDArray[np.int64], budget_bytes: int) -> Self:
        """Make a cache.

        Args:
            sizes: [row] bytes of each row's block.
            rows: in the order in which they are given room.
            budget_bytes: for all of them.

        Raises:
            OSError: the system gives no room for it.
        """
        offsets = offsets_within(sizes, rows, budget_bytes)
        token = uuid.uuid4().bytes
        n_bytes = len(token) + len(sizes) + int(sizes[offsets >= 0].sum())
        named = None
        if _NAMELESS:
            descriptor = os.memfd_create("student-clap-cache")
            name = _through(descriptor)
        else:
            descriptor, name = tempfile.mkstemp(prefix="student-clap-cache-")
            named = Path(name)
        file = cls(descriptor, CacheHandle(name, token, n_bytes, offsets), named)
        try:
            os.ftruncate(descriptor, n_bytes)
            os.pwrite(descriptor, token, 0)
        except OSError:
            file.__exit__()
            raise
        return file

    @classmethod
    def join(cls, handle: CacheHandle) -> Self:
        """Hold a cache that another process of this machine made. Raises OSError as `CacheHandle.open` does."""
        descriptor = os.open(handle.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            handle.check(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        # Its own readers find it through this process, which may outlive the one that made it.
        return cls(descriptor, replace(handle, path=_through(descriptor) if _NAMELESS else handle.path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        if self._named is not None:
            self._named.unlink(missing_ok=True)


def _through(descriptor: int) -> str:
    """Where others find an open file of this process."""
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def share_that_fits(offsets: Sequence[int] | Sizes, sizes: Sizes, rows: npt.NDArray[np.int64]) -> float:
    """Which part of the blocks of `rows` has room, 0 to 1."""
    wanted = int(sizes[rows].sum())
    return float(sizes[rows][np.asarray(offsets)[rows] >= 0].sum() / wanted) if wanted else 1.0


def strip_bytes(n_mels: int, frames: Frames) -> Frames:
    """Size of the block of a strip of so many frames."""
    return n_mels * _COLUMNS * (-(-frames // _COLUMNS))


def to_block(strip: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A strip, [mel, frame], as it is kept: some hundred columns after another, each of them in one piece of memory."""
    n_mels, frames = strip.shape
    kept = np.zeros((-(-frames // _COLUMNS), n_mels, _COLUMNS), np.uint8)
    for number, begin in enumerate(range(0, frames, _COLUMNS)):
        part = strip[:, begin : begin + _COLUMNS]
        kept[number, :, : part.shape[1]] = part
    return kept.reshape(-1)


def copy_from_block(block: npt.NDArray[np.uint8], runs: Iterable[Run], out: npt.NDArray[np.uint8]) -> None:
    """Copy runs of columns of a strip that is kept to `out`, [mel, frame], one after the other."""
    kept = block.reshape(-1, len(out), _COLUMNS)
    at = 0
    for first, end in runs:
        while first < end:
            number, within = divmod(first, _COLUMNS)
            length = min(end - first, _COLUMNS - within)
            out[:, at : at + length] = kept[number, :, within : within + length]
            first, at = first + length, at + length


def segment_vector_bytes(n_segments: int) -> int:
    """Size of a track's segment vectors, float16."""
    return 2 * EMBEDDING_DIM * n_segments
