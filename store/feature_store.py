"""FeatureStore: the one door to the Zarr store, format 1.

Guarantee: a reader sees committed rows and strips only. One process writes the one-dimensional arrays at a time,
held by a lock file next to the store that the operating system frees when the process ends, however it ends. Metadata
and columns carry checksums: a damaged file is an error that names it (docs/store.md lists what repair can do).
Cost: opening reads the metadata and the states, 10 ms; 0.1 s for a million rows.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import zarr

from student_clap.config.schema import EMBEDDING_DIM
from student_clap.store import teachers
from student_clap.store.arrays import given_vectors
from student_clap.store.arrays.feature_arrays import (
    NOT_MADE,
)
from student_clap.store.arrays.features import Features
from student_clap.store.arrays.given_vectors import mark_given
from student_clap.store.arrays.metadata import (
    as_files,
    describe,
    set_attributes,
)
from student_clap.store.arrays.segment_vectors import SegmentVectors
from student_clap.store.arrays.tracks import (
    STRING_COLUMNS,
    State,
    Track,
    append_rows,
    array,
    committed_rows,
    create_table,
    read_column,
    read_strings,
    update_column,
    without_vector,
)
from student_clap.store.hierarchy import FORMAT, FORMAT_VERSION, no_store, open_root
from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.views import with_above
from student_clap.store.recipe_store import RecipeStore, features_of
from student_clap.store.segment_store import SegmentStore
from student_clap.store.storage.base import Lock, Storage, StoragePath
from student_clap.store.storage.errors import CorruptColumnError, UnreadableError
from student_clap.store.storage.open import open_storage, without_cache
from student_clap.store.store_arrays import StoreArrays

_ROWS = "tracks"  # attribute of the root: at least this many rows were committed


class FeatureStore(RecipeStore, SegmentStore):
    """Tracks, teacher vectors and features. Use as a context manager where it is opened for writing."""

    def __init__(
        self,
        storage: Storage,
        root: zarr.Group,
        lock: Lock | None,
        attributes: dict[str, Any],
        *,
        for_repair: bool = False,
    ) -> None:
        self._storage = storage
        self._root = root
        self._lock = lock
        self._attributes = attributes
        self._left_out = set()
        try:
            self.n_tracks = committed_rows(root)
        except CorruptColumnError:
            if not for_repair:
                raise
            self.n_tracks = 0
        except UnreadableError:
            if not for_repair or lock is not None:  # what can be read again must not be cut off
                raise
            self.n_tracks = 0
        if for_repair:
            self.n_tracks = max(self.n_tracks, attributes.get(_ROWS, 0))
        if self.n_tracks < attributes.get(_ROWS, 0):
            raise CorruptColumnError(
                f"{storage}: the column state has {self.n_tracks} tracks, but {attributes[_ROWS]} were written; a file "
                f"below {storage / 'state'} is lost. `student-clap store repair` sets those tracks to LISTED"
            )

    @classmethod
    def create(cls, path: StoragePath, teacher_name: str) -> Self:
        """Create an empty store and open it for writing.

        Args:
            path: directory or s3:// URL; nothing may be there yet.
            teacher_name: the model that the user declares to have made the vectors.

        Raises:
            StoreError: something is there, it cannot be written, or another process creates it.
        """
        storage = open_storage(path)
        attributes = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "uuid": uuid.uuid4().hex,
            "package_version": version("student-clap"),
            "teacher_name": teacher_name,
            _ROWS: 0,
        }

        def make(root: zarr.Group) -> None:
            root.update_attributes(attributes)
            create_table(root)
            root.create_group("features")

        files = as_files(describe(make))
        storage.check_free(files)
        lock = storage.take_lock() if storage.locks_before_it_is_there else None
        try:
            storage.create(files)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return cls._opened(storage, "r+", lock)

    @classmethod
    def open(cls, path: StoragePath, mode: Literal["r", "r+"] = "r", *, for_repair: bool = False) -> Self:
        """Open a store.

        Args:
            path: directory or s3:// URL of the store; or a CachedPath, which counts for "r" alone.
            mode: "r" to read; "r+" to write, which takes the writer's lock and removes temporary files.
            for_repair: open it although its states are damaged, with as many rows as were written; for `repair`.

        Raises:
            StoreError: there is no store, it has another format, or another process is writing.
        """
        storage = open_storage(path if mode == "r" else without_cache(path))
        if not (storage / "zarr.json").exists():
            storage.check_reachable()
            raise no_store(storage)
        return cls._opened(storage, mode, None, for_repair=for_repair)

    @classmethod
    def _opened(
        cls, storage: Storage, mode: Literal["r", "r+"], lock: Lock | None, *, for_repair: bool = False
    ) -> Self:
        if mode == "r+" and lock is None:
            lock = storage.take_lock()
        try:
            root, attributes = open_root(storage, mode)
            store = cls(storage, root, lock, attributes, for_repair=for_repair)
            if mode == "r+":
                arrays = store._arrays(store.recipes())
                arrays.sweep(store.n_tracks)
                arrays.resize(store.n_tracks, store.n_tracks)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return store

    @classmethod
    def open_or_create(cls, path: StoragePath, teacher_name: str) -> Self:
        """Open for writing, creating the store if it is not there. Raises StoreError as `open` and `create` do."""
        return cls.open(path, "r+") if cls.is_at(path) else cls.create(path, teacher_name)

    @classmethod
    def is_at(cls, path: StoragePath) -> bool:
        """Whether a store is there. Raises StoreError where the storage cannot be asked."""
        return (open_storage(path) / "zarr.json").exists()

    @classmethod
    def shard_writer(cls, path: StoragePath, recipe: Recipe) -> Features:
        """The features of `recipe`, to write strips while another process holds the store for writing.

        For the tasks of a stage: they call `write_strip` on rows that no other task has, and never `commit`.
        """
        storage = open_storage(path)
        root, _ = open_root(storage, "r+")
        return features_of(storage, root, recipe, committed_rows(root))

    @classmethod
    def segment_writer(cls, path: StoragePath, name: str) -> SegmentVectors:
        """The set of segment vectors of that name, to write chunks while another process holds the store for writing.

        For the tasks of a stage: they call `write_chunk` on rows that no other task has, and never `commit`.
        """
        storage = open_storage(path)
        root, attributes = open_root(storage, "r+")
        sets = teachers.all_sets(storage, root, attributes)
        return SegmentVectors(root, storage, committed_rows(root), teachers.chosen(sets, name))

    def close(self) -> None:
        """Give the writer's lock back."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- identity

    @property
    def path(self) -> Path | str:
        """The directory as it was given, or the text of the URL."""
        return self._storage.path

    @property
    def address(self) -> str:
        """A path or URL that opens the store from every directory, and where it is shared, on every host."""
        return self._storage.address

    @property
    def source(self) -> StoragePath:
        """As `address`, and through the same local cache."""
        return self._storage.source

    @property
    def uuid(self) -> str:
        """Identity of the store, 32 hex digits, made at its creation."""
        return str(self._attributes["uuid"])

    @property
    def teacher_name(self) -> str:
        """The model that the user declared to have made the vectors."""
        return str(self._attributes["teacher_name"])

    @teacher_name.setter
    def teacher_name(self, name: str) -> None:
        changes = {"teacher_name": name}
        if self.n_segment_teacher().any():
            changes = teachers.renamed(self._attributes, name)
        self._attributes = set_attributes(self._storage, changes)

    # --- the track table

    def append_tracks(self, tracks: Sequence[Track]) -> range:
        """Add rows; they appear together once everything else about them is written. Returns their rows.

        Raises:
            StoreError: they cannot be written, or there are features that this version cannot read, which would not
                get them; none of them counts then.
        """
        if not tracks:
            return range(self.n_tracks, self.n_tracks)
        rows = range(self.n_tracks, self.n_tracks + len(tracks))
        self._arrays(self._all_recipes()).resize(self.n_tracks, rows.stop)
        append_rows(self._root, self.n_tracks, tracks)
        self.n_tracks = rows.stop
        (self._storage / "state" / "c").flush()
        # A lower bound: should the states be lost, this says that there were some.
        self._attributes = set_attributes(self._storage, {_ROWS: rows.stop})
        return rows

    def strings(self, name: str, begin: int = 0, end: int | None = None) -> list[str]:
        """A text column of rows [begin, end) as a list, one entry per track. Raises KeyError, CorruptColumnError."""
        if name not in STRING_COLUMNS:
            raise KeyError(f"{name} is not a text column; there are {', '.join(STRING_COLUMNS)}")
        end = self.n_tracks if end is None else min(end, self.n_tracks)
        return read_strings(array(self._root, name), begin, end)

    def states(self) -> npt.NDArray[np.uint8]:
        """[track] State values. Raises CorruptColumnError."""
        return read_column(array(self._root, "state"), 0, self.n_tracks)

    def teacher(self, begin: int = 0, end: int | None = None) -> npt.NDArray[np.float32]:
        """Teacher vectors of rows [begin, end), [track, 512]; NaN rows have none. Raises CorruptColumnError."""
        end = self.n_tracks if end is None else min(end, self.n_tracks)
        return read_column(array(self._root, "teacher"), begin, end)

    def row_of(self) -> dict[tuple[str, str], int]:
        """(server_id, track_id) -> row."""
        return {
            key: row for row, key in enumerate(zip(self.strings("server_id"), self.strings("track_id"), strict=True))
        }

    def update_tracks(
        self,
        rows: Sequence[int],
        *,
        teacher: npt.NDArray[np.float32] | None = None,
        state: Sequence[State] | None = None,
        **strings: Sequence[str],
    ) -> None:
        """Replace columns of `rows`; `state` is written last. Every sequence has one entry per row.

        Raises:
            KeyError: a name of `strings` is not a text column.
            CorruptColumnError: a chunk that holds some of `rows` is damaged.
            StoreError: a chunk cannot be written.
        """
        if not rows:
            return
        at = np.asarray(rows, np.int64)
        for name, values in strings.items():
            if name not in STRING_COLUMNS:
                raise KeyError(f"{name} is not a text column; there are {', '.join(STRING_COLUMNS)}")
            update_column(array(self._root, name), at, np.array(values, dtype=np.dtypes.StringDType()))
        if teacher is not None:
            mark_given(self._storage, self._root, self.n_tracks, at, by_us=False)
            update_column(array(self._root, "teacher"), at, np.asarray(teacher, np.float32))
        if state is not None:
            update_column(array(self._root, "state"), at, np.array(state, np.uint8))

    def write_teacher(self, rows: Sequence[int], vectors: npt.NDArray[np.float32]) -> list[int]:
        """Write the teacher's vectors of those of `rows` that have none. Returns these rows.

        Args:
            rows: the tracks.
            vectors: [track, 512], unit length.

        Raises:
            CorruptColumnError: a chunk that holds some of `rows` is damaged.
            StoreError: a vector is not finite or not of unit length, or a chunk cannot be written.
        """
        given, column = np.asarray(vectors, np.float32), array(self._root, "teacher")
        empty = without_vector(column, list(rows), given)
        at = np.asarray(rows, np.int64)[empty]
        mark_given(self._storage, self._root, self.n_tracks, at, by_us=True)
        update_column(column, at, given[empty])
        filled: list[int] = at.tolist()
        return filled

    def given_vectors(self) -> npt.NDArray[np.bool_]:
        """[track] whether its vector was written by `write_teacher`, and not by a source. Raises CorruptColumnError."""
        return given_vectors.given(self._root, self.n_tracks)

    def withdraw_given_vectors(self) -> None:
        """Take away the vectors that `write_teacher` wrote. Raises CorruptColumnError, StoreError."""
        rows = np.flatnonzero(self.given_vectors())
        update_column(array(self._root, "teacher"), rows, np.full((len(rows), EMBEDDING_DIM), np.nan, np.float32))
        mark_given(self._storage, self._root, self.n_tracks, rows, by_us=False)

    # --- features

    def outdate_features(self, rows: list[int]) -> None:
        """Record that nothing was made of `rows` yet: their audio is new, so featurize makes it.

        That is the features of every recipe, and the segment vectors of every set that featurize writes; of views also
        those that have one of `rows` beneath. Raises
        StoreError where there are features that this version cannot read, before anything is recorded.
        """
        for recipe in self._all_recipes().values():
            of = with_above(recipe.view, rows, self.n_tracks)
            self.features(recipe).commit(of, [NOT_MADE] * len(of), [""] * len(of))
        for vectors in self.stored_segment_sets():
            if vectors.set.folder:
                of = with_above(vectors.set.view, rows, self.n_tracks)
                vectors.commit(of, [0] * len(of))

    # --- inside

    def columns(self) -> list[zarr.Array[Any]]:
        """The one-dimensional arrays and the teacher's vectors, for code that looks at their chunks."""
        return [array(self._root, name) for name in self._arrays(self.recipes()).columns()]

    def _arrays(self, recipes: Iterable[str]) -> StoreArrays:
        return StoreArrays(self._storage, self._root, list(recipes))
