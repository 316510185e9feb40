"""The teacher's vectors of single segments, where the teacher could be run: two optional arrays of the root group.

    segment_teacher    [track, segment, 512] float16, unit length, in production's order, the tail's repeat included
    n_segment_teacher  [track] int32, how many of them a track has; 0 none

Guarantee: vectors are written before their count, so a count never stands for vectors that are not there; every
chunk, which is one track, carries a crc32c. Cost: 1 KB per segment; a track without vectors costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from student_clap.config.runtime.text import reason
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.store.arrays.metadata import WHOLE, add_members
from student_clap.store.arrays.tracks import array, chunk_storage, column_codecs, read_column, update_column
from student_clap.store.storage.base import Storage
from student_clap.store.storage.errors import CorruptShardError, StoreError

MAX_SEGMENTS = 120  # of 600 s
COUNT_CHUNK_ROWS = 65_536
VECTORS, COUNTS = "segment_teacher", "n_segment_teacher"
SEGMENT_COLUMNS = (VECTORS, COUNTS)
SegmentVectors = npt.NDArray[np.float16]


def create_segment_vectors(store: Storage, n_tracks: int) -> None:
    """Create the two arrays in the store, each whole. Raises StoreError if they cannot be written."""
    there = store.folders()
    add_members(store, [name for name in SEGMENT_COLUMNS if name not in there], segment_arrays(n_tracks))


def segment_arrays(n_tracks: int) -> Callable[[zarr.Group], None]:
    """A function that creates the two arrays in a root group."""

    def make(root: zarr.Group) -> None:
        root.create_array(
            VECTORS,
            shape=(n_tracks, MAX_SEGMENTS, EMBEDDING_DIM),
            chunks=(1, MAX_SEGMENTS, EMBEDDING_DIM),
            dtype="float16",
            fill_value=np.nan,
            compressors=[ZstdCodec(level=3), Crc32cCodec()],
            dimension_names=("track", "segment", "embedding"),
            attributes={"long_name": "teacher's vectors of single segments, unit length; NaN where there are none"},
        )
        root.create_array(
            COUNTS,
            shape=(n_tracks,),
            chunks=(COUNT_CHUNK_ROWS,),
            dtype="int32",
            fill_value=0,
            compressors=column_codecs(),
            dimension_names=("track",),
            attributes={WHOLE: True, "long_name": "segments that segment_teacher has of the track"},
        )

    return make


def rows_with_a_file(store: Storage) -> set[int]:
    """Rows whose vectors have a file, counted or not."""
    return set((store / VECTORS / "c").row_sizes())


def has_segment_vectors(root: zarr.Group) -> bool:
    """Whether the arrays are there."""
    return VECTORS in root and COUNTS in root


def counts(root: zarr.Group, n_tracks: int) -> npt.NDArray[np.int32]:
    """[track] how many segment vectors each track has."""
    if not has_segment_vectors(root):
        return np.zeros(n_tracks, np.int32)
    return read_column(array(root, COUNTS), 0, n_tracks)


def write(root: zarr.Group, rows: list[int], vectors: list[SegmentVectors]) -> None:
    """Write the vectors of `rows`, then their counts; an empty [0, 512] takes a track's vectors away.

    Args:
        root: the root group, its arrays created.
        rows: the tracks.
        vectors: one [segment, 512] per row.

    Raises:
        StoreError: the shape is another, there are more than MAX_SEGMENTS, or a value is not finite.
    """
    column: zarr.Array[Any] = array(root, VECTORS)
    for row, found in zip(rows, vectors, strict=True):
        if found.ndim != 2 or found.shape[1] != EMBEDDING_DIM or len(found) > MAX_SEGMENTS:
            raise StoreError(
                f"row {row}: segment vectors are {list(found.shape)}, expected at most {[MAX_SEGMENTS, EMBEDDING_DIM]}"
            )
        if not np.isfinite(found).all():
            raise StoreError(f"row {row}: segment vectors have values that are NaN or infinite")
    at = np.asarray(rows, np.int64)
    # A row whose vectors are replaced has none while they are.
    update_column(array(root, COUNTS), at, np.zeros(len(rows), np.int32))
    for row, found in zip(rows, vectors, strict=True):
        chunk = chunk_storage(column, row)
        if chunk is not None:
            chunk.parent.sweep()
        if len(found):
            block = np.full((1, MAX_SEGMENTS, EMBEDDING_DIM), np.nan, np.float16)
            block[0, : len(found)] = found
            column[row : row + 1] = block
        elif chunk is not None:
            chunk.unlink()
    update_column(array(root, COUNTS), at, np.array([len(v) for v in vectors], np.int32))


def read(root: zarr.Group, row: int, n_segments: int) -> SegmentVectors:
    """The vectors of `row`, [segment, 512] float16. Raises CorruptShardError if they are damaged or gone."""
    remedy = "`student-clap ingest` writes them again after `student-clap store repair --deep`"
    try:
        vectors: SegmentVectors = np.asarray(array(root, VECTORS)[row, :n_segments])
    except (ValueError, RuntimeError) as error:
        raise CorruptShardError(f"row {row}: the segment vectors are damaged ({reason(error)}); {remedy}") from error
    if not np.isfinite(vectors).all():
        raise CorruptShardError(f"row {row}: segment vectors are counted but not there; {remedy}")
    return vectors
