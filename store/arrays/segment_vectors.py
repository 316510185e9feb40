"""The vectors of a set: read, and written by a stage's driver or by its tasks.

Guarantee: vectors are written before their count, so a count never stands for vectors that are not there. Tasks may
write the vectors of different rows at once; only the stage's driver commits them.
Cost: one chunk, which is one file, per track.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from student_clap.config.runtime.text import reason
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.store.arrays.segment_sets import ROOT, SegmentSet, has_segment_vectors
from student_clap.store.arrays.tracks import array, chunk_storage, read_column, update_column
from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.segments import segment_starts
from student_clap.store.storage.base import Storage
from student_clap.store.storage.errors import CorruptShardError, StoreError

Vectors = npt.NDArray[np.float16]


class SegmentVectors:
    """The vectors of one set. Obtain it from `FeatureStore`: segment_vectors, add_segment_set or segment_writer."""

    def __init__(self, root: zarr.Group, storage: Storage, n_tracks: int, of: SegmentSet) -> None:
        self._root = root
        self._chunks = storage / of.vectors / "c"
        self._n_tracks = n_tracks
        self.set = of

    @property
    def name(self) -> str:
        """The teacher's."""
        return self.set.name

    @property
    def model(self) -> str:
        """Digest of the teacher's file; "" where it is not known."""
        return self.set.model

    @property
    def hop_samples(self) -> int:
        """From start to start, samples at 48 kHz; production's 240000, or finer."""
        return self.set.hop_samples

    def starts(self, n_samples: int, recipe: Recipe) -> npt.NDArray[np.int64]:
        """[segment] first samples of the segments of a track of `n_samples`, in the order of its vectors."""
        return self.set.starts(n_samples, recipe)

    def counts(self) -> npt.NDArray[np.int32]:
        """[track] how many segment vectors each track has; 0 none. Raises CorruptColumnError."""
        return counts(self._root, self._n_tracks, self.set)

    def read(self, row: int, n: int | None = None) -> Vectors:
        """The vectors of `row`, [segment, 512] float16, unit length; [0, 512] where there are none.

        Args:
            row: the track's row.
            n: the row's entry of `counts`, if the caller has it at hand.

        Raises:
            CorruptShardError: they are counted, but damaged or gone.
        """
        if n is None:
            there = has_segment_vectors(self._root, self.set)
            n = int(read_column(array(self._root, self.set.counts), row, row + 1)[0]) if there else 0
        return read(self._root, row, n, self.set) if n else np.empty((0, EMBEDDING_DIM), np.float16)

    def of_production(self, row: int, n_samples: int, recipe: Recipe, n: int | None = None) -> Vectors:
        """The vectors of production's own segments alone, in its order, the tail's repeat included.

        Args:
            row: the track's row.
            n_samples: of the track.
            recipe: of its features.
            n: the row's entry of `counts`, if the caller has it at hand.

        Returns:
            [segment, 512]; [0, 512] where there are none, or not as many as a track of that length has.

        Raises:
            CorruptShardError: they are counted, but damaged or gone.
        """
        grid, own = self.starts(n_samples, recipe), segment_starts(n_samples, recipe)
        vectors = self.read(row, n)
        if len(vectors) != len(grid):
            return vectors[:0]
        return vectors if len(grid) == len(own) else vectors[np.searchsorted(grid, own)]

    def write(self, rows: list[int], vectors: list[Vectors]) -> None:
        """Write the vectors of `rows`, then their counts; an empty [0, 512] takes a track's vectors away.

        For the stage's driver, which holds the store for writing. Raises StoreError as `write_chunk` does.
        """
        write(self._root, rows, vectors, self.set)

    def write_chunk(self, row: int, vectors: Vectors) -> None:
        """Write the vectors of `row`; `commit` makes them count. Tasks may write different rows at once.

        Args:
            row: the track's row, whose count is 0: what counts is not to change.
            vectors: [segment, 512] unit vectors in the order of `starts`.

        Raises:
            StoreError: the shape is another, there are more than a track can have, or a value is not finite; or the
                file cannot be written.
        """
        _check(row, vectors, self.set)
        _write_chunk(array(self._root, self.set.vectors), row, vectors)

    def commit(self, rows: list[int], counts: list[int]) -> None:
        """Record that `write_chunk` has written so many vectors for each of `rows`; 0: they do not count any more.

        The driver alone calls this.

        Raises:
            CorruptColumnError: a chunk of the column of counts is damaged.
            StoreError: a count that cannot be, or it cannot be written.
        """
        if impossible := [n for n in counts if not 0 <= n <= self.set.max_segments]:
            raise StoreError(f"{impossible[0]} segment vectors of a track; expected 0 to {self.set.max_segments}")
        update_column(array(self._root, self.set.counts), np.asarray(rows, np.int64), np.asarray(counts, np.int32))

    def delete_chunk(self, row: int) -> None:
        """Remove the vectors of `row`, which do not count, and what a killed writer left next to them."""
        (self._chunks / f"{row}/0/0").unlink()
        (self._chunks / f"{row}/0").sweep()

    def rows_with_a_file(self) -> set[int]:
        """Rows whose vectors have a file, counted or not."""
        return set(self._chunks.row_sizes())

    def stored_bytes(self) -> int:
        """Bytes of the vectors that count."""
        sizes = self._chunks.row_sizes()
        return sum(sizes.get(row, 0) for row in np.flatnonzero(self.counts()).tolist())


def counts(root: zarr.Group, n_tracks: int, of: SegmentSet = ROOT) -> npt.NDArray[np.int32]:
    """[track] how many segment vectors each track has."""
    if not has_segment_vectors(root, of):
        return np.zeros(n_tracks, np.int32)
    return read_column(array(root, of.counts), 0, n_tracks)


def write(root: zarr.Group, rows: list[int], vectors: list[Vectors], of: SegmentSet = ROOT) -> None:
    """Write the vectors of `rows`, then their counts; an empty [0, 512] takes a track's vectors away.

    Args:
        root: the root group, the arrays of the set created.
        rows: the tracks.
        vectors: one [segment, 512] per row.
        of: the set.

    Raises:
        StoreError: the shape is another, there are more than a track can have, or a value is not finite.
    """
    for row, found in zip(rows, vectors, strict=True):
        _check(row, found, of)
    column: zarr.Array[Any] = array(root, of.vectors)
    at = np.asarray(rows, np.int64)
    # A row whose vectors are replaced has none while they are.
    update_column(array(root, of.counts), at, np.zeros(len(rows), np.int32))
    for row, found in zip(rows, vectors, strict=True):
        _write_chunk(column, row, found)
    update_column(array(root, of.counts), at, np.array([len(v) for v in vectors], np.int32))


def _check(row: int, vectors: Vectors, of: SegmentSet) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != EMBEDDING_DIM or len(vectors) > of.max_segments:
        expected = [of.max_segments, EMBEDDING_DIM]
        raise StoreError(f"row {row}: segment vectors are {list(vectors.shape)}, expected at most {expected}")
    if not np.isfinite(vectors).all():
        raise StoreError(f"row {row}: segment vectors have values that are NaN or infinite")


def _write_chunk(column: zarr.Array[Any], row: int, vectors: Vectors) -> None:
    chunk = chunk_storage(column, row)
    if chunk is not None:
        chunk.parent.sweep()
    if len(vectors):
        block = np.full((1, *column.shape[1:]), np.nan, np.float16)
        block[0, : len(vectors)] = vectors
        column[row : row + 1] = block
    elif chunk is not None:
        chunk.unlink()


def read(root: zarr.Group, row: int, n_segments: int, of: SegmentSet = ROOT) -> Vectors:
    """The vectors of `row`, [segment, 512] float16. Raises CorruptShardError if they are damaged or gone."""
    try:
        return _stored(root, row, n_segments, of)
    except CorruptShardError:  # of a copy that may be older than the counts
        chunk = chunk_storage(array(root, of.vectors), row)
        if chunk is None or not chunk.forget():
            raise
        return _stored(root, row, n_segments, of)


def _stored(root: zarr.Group, row: int, n_segments: int, of: SegmentSet) -> Vectors:
    remedy = f"`{of.stage}` writes them again after `student-clap store repair --deep`"
    whose = f" of {of.name}" if of.folder else ""
    try:
        vectors: Vectors = np.asarray(array(root, of.vectors)[row, :n_segments])
    except (ValueError, RuntimeError) as error:
        raise CorruptShardError(
            f"row {row}: the segment vectors{whose} are damaged ({reason(error)}); {remedy}"
        ) from error
    if not np.isfinite(vectors).all():
        raise CorruptShardError(f"row {row}: segment vectors{whose} are counted but not there; {remedy}")
    return vectors
