"""Codes and segment vectors that were read once, kept in memory for the epochs that follow.

One copy serves the process that made it and those that it tells of it: the pages are those of an open file without a
name (memfd), which the others reach through /proc; it is gone when the last of them ends, however that ends. Where the
system has no such files it is a temporary file, removed at the end.

Guarantee: a block reads as it was put, or is not there; a block may be put twice, with the same content. Readers and
their numbers are those without the cache.
Cost: `budget_bytes` at most, taken as blocks are put.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from student_clap.config.schema import EMBEDDING_DIM

Sizes = npt.NDArray[np.int64]


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
    n_bytes: int
    offsets: Sizes  # [row] of the block, in bytes behind the marks; -1: none

    def open(self) -> BlockCache:
        """Map the cache. Raises OSError where its owner has ended."""
        with Path(self.path).open("r+b") as file:
            return BlockCache(self, mmap.mmap(file.fileno(), self.n_bytes))


class BlockCache:
    """Blocks of bytes by row."""

    def __init__(self, handle: CacheHandle, mapped: mmap.mmap) -> None:
        n_rows = len(handle.offsets)
        self._offsets = handle.offsets
        whole = np.frombuffer(mapped, np.uint8)
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
    """The memory of a cache, held by the process that made it. Use as a context manager.

    Args:
        sizes: [row] bytes of each row's block.
        rows: in the order in which they are given room.
        budget_bytes: for all of them.
    """

    def __init__(self, sizes: Sizes, rows: npt.NDArray[np.int64], budget_bytes: int) -> None:
        offsets = offsets_within(sizes, rows, budget_bytes)
        kept = offsets >= 0
        n_bytes = len(sizes) + int(sizes[kept].sum())
        self._named = None
        if hasattr(os, "memfd_create"):
            self._descriptor = os.memfd_create("student-clap-cache")
            path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        else:
            self._descriptor, path = tempfile.mkstemp(prefix="student-clap-cache-")
            self._named = Path(path)
        os.ftruncate(self._descriptor, max(1, n_bytes))
        self.handle = CacheHandle(path, max(1, n_bytes), offsets)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        if self._named is not None:
            self._named.unlink(missing_ok=True)


def share_that_fits(offsets: Sequence[int] | Sizes, sizes: Sizes, rows: npt.NDArray[np.int64]) -> float:
    """Which part of the blocks of `rows` has room, 0 to 1."""
    wanted = int(sizes[rows].sum())
    return float(sizes[rows][np.asarray(offsets)[rows] >= 0].sum() / wanted) if wanted else 1.0


def segment_vector_bytes(n_segments: int) -> int:
    """Size of a track's segment vectors, float16."""
    return 2 * EMBEDDING_DIM * n_segments
