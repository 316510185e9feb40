"""All arrays of a store that have a row per track: which there are, and what a writer does to all of them.

A writer that was killed leaves temporary files, arrays that were never finished and shards that no column counts
(`sweep`); an earlier version leaves columns without the files of their last chunks (`resize` completes them).
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import zarr

from student_clap.store import teachers
from student_clap.store.arrays import given_vectors, segment_sets
from student_clap.store.arrays.feature_arrays import STRIPS, present_columns
from student_clap.store.arrays.metadata import WHOLE, Document, fill, is_whole, set_attributes, set_rows
from student_clap.store.arrays.tracks import TABLE_COLUMNS, absent_chunks, array, read_column
from student_clap.store.storage.base import Storage
from student_clap.store.storage.errors import StoreError

_FLUSHES = 8


class StoreArrays:
    """The arrays of an open store.

    Args:
        storage: the store.
        root: its group.
        recipes: the names of those that have features.
    """

    def __init__(self, storage: Storage, root: zarr.Group, recipes: list[str]) -> None:
        self._storage = storage
        self._root = root
        self._recipes = recipes

    def columns(self) -> list[str]:
        """Paths of the arrays that count tracks, without those of shards."""
        there = self._storage.folders()
        names = [name for name in (*TABLE_COLUMNS, given_vectors.GIVEN, segment_sets.COUNTS) if name in there]
        names += [of.counts for of in teachers.group_sets(self._storage, there).values()]
        for recipe in self._recipes:
            columns = present_columns(self._storage / "features" / recipe)
            names += [f"features/{recipe}/{column}" for column in columns]
        return names

    def sharded(self) -> dict[str, str]:
        """Paths of the arrays that have a file per track -> the column that says which of them count."""
        there = self._storage.folders()
        found = {segment_sets.VECTORS: segment_sets.COUNTS} if segment_sets.VECTORS in there else {}
        found |= {of.vectors: of.counts for of in teachers.group_sets(self._storage, there).values()}
        return found | {f"features/{recipe}/{STRIPS}": f"features/{recipe}/n_samples" for recipe in self._recipes}

    def sweep(self, n_tracks: int) -> None:
        """Remove temporary files of a killed writer, and arrays that were never finished.

        Args:
            n_tracks: rows that are committed; shards of others go.

        Raises:
            StoreError: metadata are damaged, or something cannot be removed.
        """
        storage = self._storage
        storage.sweep(unfinished=True)
        groups = [f"features/{name}" for name in (storage / "features").folders()]
        columns = self.columns()
        segment_sets.sweep_unfinished(storage)
        groups += [segment_sets.GROUP] if segment_sets.GROUP in storage.folders() else []
        groups += [name.rpartition("/")[0] for name in columns if name.startswith(f"{segment_sets.GROUP}/")]
        chunks = [f"teacher/c/{name}" for name in (storage / "teacher" / "c").folders()]
        sharded = self.sharded()
        for name in ("features", *groups, *chunks, *sharded):
            (storage / name).sweep()
        for name in columns:
            (storage / name).sweep()
            (storage / name / "c").sweep()
        for name, column in sharded.items():
            (storage / name / "c").sweep_rows(functools.partial(self._counted, column, n_tracks))

    def resize(self, n_before: int, n_tracks: int) -> None:
        """Give every array that counts tracks `n_tracks` rows, and every column the files of their chunks.

        Args:
            n_before: rows that are committed.
            n_tracks: rows that there are to be.

        Raises:
            StoreError: metadata are damaged, or cannot be written.
        """
        columns = self.columns()
        folders = [self._storage / name for name in (*columns, *self.sharded())]
        with ThreadPoolExecutor(_FLUSHES) as threads:  # the disk flushes several files in the time of one
            documents = list(threads.map(lambda folder: set_rows(folder, n_tracks), folders))
        for name, document in zip(columns, documents[: len(columns)], strict=True):
            if name not in TABLE_COLUMNS:  # whose chunks are written with the rows themselves
                self._complete(name, document, n_before, n_tracks)

    def _counted(self, column: str, n_tracks: int) -> set[int]:
        """The rows that a column of counts or lengths counts; none where it cannot be read."""
        try:
            return set(np.flatnonzero(read_column(array(self._root, column), 0, n_tracks) > 0).tolist())
        except (StoreError, KeyError):
            return set()

    def _complete(self, name: str, document: Document, n_before: int, n_tracks: int) -> None:
        """Write those chunks of a column that no row has been written to, up to row `n_tracks`."""
        column = array(self._root, name)
        chunk = column.chunks[0]
        if is_whole(document):
            fill(column, -(-n_before // chunk) * chunk, n_tracks)
            return
        # Made before columns were marked, when a chunk that is not there was one that nothing had been written to.
        for number in absent_chunks(column, range(-(-n_tracks // chunk))):
            fill(column, number * chunk, min((number + 1) * chunk, n_tracks))
        set_attributes(self._storage / name, {WHOLE: True})
