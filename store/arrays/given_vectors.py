"""Which tracks' vectors a teacher of ours gave, and no source of vectors: an optional column of the track table.

    teacher_given  [track] uint8: 1 where `featurize --teacher` gave the vector in `teacher`, 0 elsewhere

So the vectors of a source are never compared with themselves, and a teacher that is replaced takes its own with it.
Guarantee: a row is marked before its vector is written. Cost: nothing in a store that has no such vector.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import zarr

from student_clap.store.arrays.metadata import WHOLE, add_members
from student_clap.store.arrays.tracks import array, column_codecs, read_column, update_column
from student_clap.store.storage.base import Storage

GIVEN = "teacher_given"
_CHUNK_ROWS = 65_536


def given_column(n_tracks: int) -> Callable[[zarr.Group], None]:
    """A function that creates the column in a root group."""

    def make(root: zarr.Group) -> None:
        root.create_array(
            GIVEN,
            shape=(n_tracks,),
            chunks=(_CHUNK_ROWS,),
            dtype="uint8",
            fill_value=0,
            compressors=column_codecs(),
            dimension_names=("track",),
            attributes={WHOLE: True, "long_name": "1 where featurize --teacher gave the track's vector"},
        )

    return make


def given(root: zarr.Group, n_tracks: int) -> npt.NDArray[np.bool_]:
    """[track] whether its vector was given. Raises CorruptColumnError."""
    if GIVEN not in root:
        return np.zeros(n_tracks, np.bool_)
    return read_column(array(root, GIVEN), 0, n_tracks) > 0


def mark_given(
    store: Storage,
    root: zarr.Group,
    n_tracks: int,
    rows: npt.NDArray[np.int64],
    *,
    by_us: bool,
) -> None:
    """Record who gave the vectors of `rows`. Raises StoreError where it cannot be written."""
    if GIVEN not in root:
        if not by_us or not len(rows):
            return
        add_members(store, [GIVEN], given_column(n_tracks))
    update_column(array(root, GIVEN), rows, np.full(len(rows), int(by_us), np.uint8))
