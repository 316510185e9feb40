"""FeatureStore: the one door to the Zarr store, format 1.

Guarantee: a reader sees committed rows and marked strips only. One process writes the one-dimensional arrays at a time,
held by a lock file beside the store that the operating system frees when the process ends, however it ends. Metadata
and columns carry checksums: what is damaged is an error that names it (docs/store.md says what repair can do).
Cost: opening reads the metadata and the states, 10 ms; 0.1 s for a million rows.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import zarr

from student_clap.config.schema import EMBEDDING_DIM
from student_clap.store.arrays import segment_vectors
from student_clap.store.arrays.features import NOT_MADE, Features, complete_features, create_features
from student_clap.store.arrays.metadata import (
    Document,
    as_files,
    describe,
    is_sealed,
    read_document,
    set_attributes,
    set_rows,
    write_document,
)
from student_clap.store.arrays.tracks import (
    STRING_COLUMNS,
    TABLE_COLUMNS,
    State,
    Track,
    append_rows,
    array,
    committed_rows,
    create_table,
    read_column,
    read_strings,
    update_column,
)
from student_clap.store.layout.recipe import Recipe
from student_clap.store.storage.base import Lock, Storage, StoragePath
from student_clap.store.storage.errors import CorruptColumnError, CorruptMetadataError, RecipeMismatchError, StoreError
from student_clap.store.storage.open import open_storage

FORMAT = "student-clap-features"
FORMAT_VERSION = 1
_FLUSHES = 8
_ROWS = "tracks"  # attribute of the root: so many rows were committed at least


class FeatureStore:
    """Tracks, teacher vectors and features. Use as a context manager where it is opened for writing."""

    def __init__(
        self,
        place: Storage,
        root: zarr.Group,
        lock: Lock | None,
        attributes: dict[str, Any],
        *,
        mend: bool = False,
    ) -> None:
        self._place = place
        self._root = root
        self._lock = lock
        self._attributes = attributes
        try:
            self.n_tracks = committed_rows(root)
        except CorruptColumnError:
            if not mend:
                raise
            self.n_tracks = 0
        if mend:
            self.n_tracks = max(self.n_tracks, attributes.get(_ROWS, 0))
        if self.n_tracks < attributes.get(_ROWS, 0):
            raise CorruptColumnError(
                f"{place}: the column state has {self.n_tracks} tracks, but {attributes[_ROWS]} were written; a file "
                f"below {place / 'state'} is lost. `student-clap store repair` sets those tracks to LISTED"
            )

    @classmethod
    def create(cls, path: StoragePath, teacher_name: str) -> Self:
        """Create an empty store and open it for writing. Raises StoreError if something is there."""
        place = open_storage(path)
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
        place.check_free(files)
        lock = place.take_lock() if place.locks_before_it_is_there else None
        try:
            place.create(files)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return cls._opened(place, "r+", lock)

    @classmethod
    def open(cls, path: StoragePath, mode: Literal["r", "r+"] = "r", *, mend: bool = False) -> Self:
        """Open a store.

        Args:
            path: directory or s3:// URL of the store.
            mode: "r" to read; "r+" to write, which takes the writer's lock and clears what a killed writer left.
            mend: open it although its states are damaged, with as many rows as were written; for `repair`.

        Raises:
            StoreError: there is no store, it has another format, or another process is writing.
        """
        place = open_storage(path)
        if not (place / "zarr.json").exists():
            place.check_reachable()
            raise StoreError(
                f"there is no feature store at {place}; `student-clap ingest` makes one (store.path names it)"
            )
        return cls._opened(place, mode, None, mend=mend)

    @classmethod
    def _opened(cls, place: Storage, mode: Literal["r", "r+"], lock: Lock | None, *, mend: bool = False) -> Self:
        if mode == "r+" and lock is None:
            lock = place.take_lock()
        try:
            root, attributes = _open_root(place, mode)
            store = cls(place, root, lock, attributes, mend=mend)
            if mode == "r+":
                store._sweep()
                store._resize(store.n_tracks)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return store

    @classmethod
    def open_or_create(cls, path: StoragePath, teacher_name: str) -> Self:
        """Open for writing, creating the store if it is not there."""
        return cls.open(path, "r+") if cls.is_at(path) else cls.create(path, teacher_name)

    @classmethod
    def is_at(cls, path: StoragePath) -> bool:
        """Whether a store is there."""
        return (open_storage(path) / "zarr.json").exists()

    @classmethod
    def shard_writer(cls, path: StoragePath, recipe: Recipe) -> Features:
        """The features of `recipe`, to write strips beside a process that holds the store for writing.

        For the tasks of a stage: they call `write_strip` on rows that no other task has, and never `mark`.
        """
        place = open_storage(path)
        root, _ = _open_root(place, "r+")
        return _features(place, root, recipe, committed_rows(root))

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
        """Where it lies: a directory as it was given, or the text of a URL."""
        return self._place.path

    @property
    def address(self) -> str:
        """What opens it from every directory, and where it is shared, from every host."""
        return self._place.address

    @property
    def uuid(self) -> str:
        """Made once, at creation."""
        return str(self._attributes["uuid"])

    @property
    def teacher_name(self) -> str:
        """The model that the user declared to have made the vectors."""
        return str(self._attributes["teacher_name"])

    @teacher_name.setter
    def teacher_name(self, name: str) -> None:
        self._attributes = set_attributes(self._place, {"teacher_name": name})

    # --- the track table

    def append_tracks(self, tracks: Sequence[Track]) -> range:
        """Add rows; they appear together once everything else about them is written. Returns their rows."""
        if not tracks:
            return range(self.n_tracks, self.n_tracks)
        rows = range(self.n_tracks, self.n_tracks + len(tracks))
        self._resize(rows.stop)
        append_rows(self._root, self.n_tracks, tracks)
        self.n_tracks = rows.stop
        (self._place / "state" / "c").flush()
        # A lower bound: should the states be lost, this says that there were some.
        self._attributes = set_attributes(self._place, {_ROWS: rows.stop})
        return rows

    def strings(self, name: str, begin: int = 0, end: int | None = None) -> list[str]:
        """A text column of rows [begin, end) as a list, one entry per track."""
        if name not in STRING_COLUMNS:
            raise KeyError(f"{name}: no text column; there are {', '.join(STRING_COLUMNS)}")
        end = self.n_tracks if end is None else min(end, self.n_tracks)
        return read_strings(array(self._root, name), begin, end)

    def states(self) -> npt.NDArray[np.uint8]:
        """[track] State values."""
        return read_column(array(self._root, "state"), 0, self.n_tracks)

    def teacher(self, begin: int = 0, end: int | None = None) -> npt.NDArray[np.float32]:
        """Teacher vectors of rows [begin, end), [track, 512]; NaN rows have none."""
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
        """Replace columns of `rows`; `state` is written last. Every sequence has one entry per row."""
        if not rows:
            return
        at = np.asarray(rows, np.int64)
        for name, values in strings.items():
            if name not in STRING_COLUMNS:
                raise KeyError(f"{name}: no text column; there are {', '.join(STRING_COLUMNS)}")
            update_column(array(self._root, name), at, np.array(values, dtype=np.dtypes.StringDType()))
        if teacher is not None:
            update_column(array(self._root, "teacher"), at, np.asarray(teacher, np.float32))
        if state is not None:
            update_column(array(self._root, "state"), at, np.array(state, np.uint8))

    # --- the teacher's vectors of segments

    def n_segment_teacher(self) -> npt.NDArray[np.int32]:
        """[track] how many segments have a teacher vector of their own; 0 none."""
        return segment_vectors.counts(self._root, self.n_tracks)

    def segment_teacher(self, row: int, n_segments: int | None = None) -> npt.NDArray[np.float16]:
        """Teacher vectors of the segments of `row`, [segment, 512]; [0, 512] where there are none.

        `n_segments` is the row's entry of `n_segment_teacher`, which is read where it is not given.

        Raises:
            CorruptShardError: they are counted, but damaged or gone.
        """
        n_segments = int(self.n_segment_teacher()[row]) if n_segments is None else n_segments
        if not n_segments:
            return np.empty((0, EMBEDDING_DIM), np.float16)
        return segment_vectors.read(self._root, row, n_segments)

    def write_segment_teacher(self, rows: list[int], vectors: list[npt.NDArray[np.float16]]) -> None:
        """Write [segment, 512] unit vectors for each of `rows`; [0, 512] takes a track's away.

        Raises:
            StoreError: a shape or value that cannot be.
        """
        if not any(len(v) for v in vectors) and not segment_vectors.has_segment_vectors(self._root):
            return
        if not segment_vectors.has_segment_vectors(self._root):
            segment_vectors.create_segment_vectors(self._place, self.n_tracks)
        segment_vectors.write(self._root, rows, vectors)

    # --- features

    def recipes(self) -> dict[str, Recipe]:
        """The recipes that have a group, by name."""
        folder = self._place / "features"
        found = {}
        for name, document in _groups(folder).items():
            attributes = document["attributes"]
            if "recipe" in attributes:
                try:
                    found[name] = Recipe.from_attributes(attributes["recipe"])
                except ValueError as error:
                    raise StoreError(f"{folder / name}: {error}") from error
        return found

    def stored_fingerprint(self, name: str) -> str:
        """The fingerprint that stands beside the recipe of that name."""
        return str(read_document(self._place / "features" / name)["attributes"].get("fingerprint", ""))

    def features(self, recipe: Recipe) -> Features:
        """The features of `recipe`; made if the store is open for writing and has none.

        Raises:
            RecipeMismatchError: the group of that name was made with other parameters; every one is listed.
            StoreError: the store has no such features and is open for reading.
        """
        stored = self.recipes().get(recipe.name)
        if stored is None:
            if self._lock is None:
                known = ", ".join(self.recipes()) or "none"
                raise StoreError(
                    f"{self.path} has no {recipe.name!r} features (it has: {known}); "
                    "run `student-clap featurize` with this configuration, or set audio.preset to one of those"
                )
            self._create_features(recipe)
        elif stored != recipe:
            lines = "\n".join(f"  - {line}" for line in stored.differences(recipe))
            raise RecipeMismatchError(
                f"the {recipe.name!r} features of {self.path} were made with another recipe:\n{lines}\n"
                "Use the configuration they were made with, or another store.path."
            )
        elif self._lock is not None:
            group = _group(self._root, f"features/{recipe.name}", self._place)
            complete_features(self._place, group, recipe, self.n_tracks)
        return _features(self._place, self._root, recipe, self.n_tracks)

    def outdate_features(self, rows: list[int]) -> None:
        """Take the marks of `rows` away in every recipe: their audio is another, and featurize makes them again."""
        for recipe in self.recipes().values():
            self.features(recipe).mark(rows, [NOT_MADE] * len(rows), [""] * len(rows))

    # --- inside

    def _create_features(self, recipe: Recipe) -> None:
        group = self._place / "features"
        if not (group / "zarr.json").exists():
            write_document(group, {"zarr_format": 3, "node_type": "group"})
        # A group without a recipe was never finished: no shard can be in it.
        (group / recipe.name).clear()
        create_features(self._place, recipe, self.n_tracks)

    def columns(self) -> list[zarr.Array[Any]]:
        """The one-dimensional arrays and the teacher's vectors, for who looks at their chunks."""
        return [array(self._root, name) for name in self._columns()]

    def segment_vector_rows(self) -> set[int]:
        """Rows whose segment vectors are there, counted or not."""
        return segment_vectors.rows_with_a_file(self._place)

    def _columns(self) -> list[str]:
        """The arrays that count tracks, without those of shards."""
        there = self._place.folders()
        names = [name for name in (*TABLE_COLUMNS, segment_vectors.COUNTS) if name in there]
        for recipe in self.recipes():
            group = self._place / "features" / recipe
            columns = ("n_samples", "error", "decoder") if "decoder" in group.folders() else ("n_samples", "error")
            names += [f"features/{recipe}/{column}" for column in columns]
        return names

    def _sharded(self) -> list[str]:
        """The arrays that have a file per track."""
        there = [segment_vectors.VECTORS] if segment_vectors.VECTORS in self._place.folders() else []
        return there + [f"features/{recipe}/mel" for recipe in self.recipes()]

    def _sweep(self) -> None:
        """Remove what a killed writer left of metadata and columns, and of arrays that were never finished."""
        self._place.sweep(unfinished=True)
        groups = [f"features/{name}" for name in (self._place / "features").folders()]
        chunks = [f"teacher/c/{name}" for name in (self._place / "teacher" / "c").folders()]
        for name in ("features", *groups, *chunks, *self._sharded()):
            (self._place / name).sweep()
        for name in self._columns():
            (self._place / name).sweep()
            (self._place / name / "c").sweep()

    def _resize(self, n_tracks: int) -> None:
        """Give every array that counts tracks `n_tracks` rows."""
        folders = [self._place / name for name in (*self._columns(), *self._sharded())]
        with ThreadPoolExecutor(_FLUSHES) as threads:  # the disk flushes several files in the time of one
            list(threads.map(lambda folder: set_rows(folder, n_tracks), folders))


def member_folders(place: Storage) -> list[Storage]:
    """The folders of all groups and arrays of the store that are there or have to be.

    Raises:
        CorruptMetadataError: the zarr.json of a recipe's group is damaged.
    """
    there = place.folders()
    folders = [place, *(place / name for name in TABLE_COLUMNS)]
    folders += [place / name for name in segment_vectors.SEGMENT_COLUMNS if name in there]
    if "features" in there:
        folders.append(place / "features")
    for name, document in _groups(place / "features").items():
        group = place / "features" / name
        folders.append(group)
        if "recipe" in document["attributes"]:
            folders += [group / name for name in ("mel", "n_samples", "error")]
            folders += [group / "decoder"] if "decoder" in group.folders() else []
    return folders


def _groups(folder: Storage) -> dict[str, Document]:
    """The zarr.json of every recipe's group, by name. One without a zarr.json and shards was never finished."""
    found = {}
    for name in folder.folders():
        try:
            found[name] = read_document(folder / name)
        except CorruptMetadataError:
            if (folder / name / "zarr.json").exists() or (folder / name / "mel" / "c").row_sizes():
                raise
    return found


def _open_root(place: Storage, mode: Literal["r", "r+"]) -> tuple[zarr.Group, dict[str, Any]]:
    """The root group and its attributes, all metadata of the store having been checked."""
    document = read_document(place)
    attributes = document.get("attributes", {})
    found = (attributes.get("format"), attributes.get("format_version"))
    if found != (FORMAT, FORMAT_VERSION):
        raise StoreError(
            f"{place} holds {found[0]!r} version {found[1]!r}, expected {FORMAT!r} version {FORMAT_VERSION}"
        )
    sealed = is_sealed(document)
    place.each(lambda folder: read_document(folder, sealed=sealed), member_folders(place))
    root = zarr.open_group(place.zarr_store(read_only=mode == "r"), mode=mode)
    return root, dict(attributes)


def _features(place: Storage, root: zarr.Group, recipe: Recipe, n_tracks: int) -> Features:
    name = f"features/{recipe.name}"
    return Features(_group(root, name, place), recipe, n_tracks, place / name)


def _group(root: zarr.Group, name: str, place: Storage) -> zarr.Group:
    group = root.get(name)
    if not isinstance(group, zarr.Group):
        raise StoreError(f"{place} has no group {name}; the store is damaged or of another make")
    return group
