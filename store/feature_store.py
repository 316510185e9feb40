"""FeatureStore: the one door to the Zarr store, format 1.

Guarantee: a reader sees committed rows and marked strips only. One process writes the one-dimensional arrays at a time,
held by a lock file beside the store that the operating system frees when the process ends, however it ends. Metadata
and columns carry checksums: what is damaged is an error that names it (docs/store.md says what repair can do).
Cost: opening reads the metadata and the states, 10 ms; 0.1 s for a million rows.
"""

from __future__ import annotations

import shutil
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
from student_clap.store import segment_vectors
from student_clap.store.durable import DurableStore, flush_directory, sweep_partial_files, writing
from student_clap.store.errors import CorruptColumnError, RecipeMismatchError, StoreError
from student_clap.store.features import NOT_MADE, Features, create_features
from student_clap.store.lock import WriterLock
from student_clap.store.metadata import (
    folders_below,
    is_sealed,
    read_document,
    set_attributes,
    set_rows,
    write_document,
)
from student_clap.store.recipe import Recipe
from student_clap.store.tracks import (
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

FORMAT = "student-clap-features"
FORMAT_VERSION = 1
_FLUSHES = 8
_ROWS = "tracks"  # attribute of the root: so many rows were committed at least


class FeatureStore:
    """Tracks, teacher vectors and features. Use as a context manager where it is opened for writing."""

    def __init__(
        self,
        path: Path,
        root: zarr.Group,
        lock: WriterLock | None,
        attributes: dict[str, Any],
        *,
        mend: bool = False,
    ) -> None:
        self.path = path
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
                f"{path}: the column state has {self.n_tracks} tracks, but {attributes[_ROWS]} were written; a file "
                f"below {path / 'state'} is lost. `student-clap store repair` sets those tracks to LISTED"
            )

    @classmethod
    def create(cls, path: str | Path, teacher_name: str) -> Self:
        """Create an empty store and open it for writing. Raises StoreError if something is there."""
        path = local_path(path)
        if path.exists():
            raise StoreError(f"{path} is there already; choose another store.path or delete it")
        # Built aside and renamed, so that a store is there whole or not at all.
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        try:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                root = zarr.create_group(
                    str(aside),
                    attributes={
                        "format": FORMAT,
                        "format_version": FORMAT_VERSION,
                        "uuid": uuid.uuid4().hex,
                        "package_version": version("student-clap"),
                        "teacher_name": teacher_name,
                        _ROWS: 0,
                    },
                )
                create_table(root)
                root.create_group("features")
                for folder in folders_below(aside):
                    write_document(folder, read_document(folder))
                aside.rename(path)
                flush_directory(path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return cls.open(path, "r+")

    @classmethod
    def open(cls, path: str | Path, mode: Literal["r", "r+"] = "r", *, mend: bool = False) -> Self:
        """Open a store.

        Args:
            path: directory of the store.
            mode: "r" to read; "r+" to write, which takes the writer's lock and clears what a killed writer left.
            mend: open it although its states are damaged, with as many rows as were written; for `repair`.

        Raises:
            StoreError: there is no store, it has another format, or another process is writing.
        """
        path = local_path(path)
        if not (path / "zarr.json").exists():
            raise StoreError(
                f"there is no feature store at {path}; `student-clap ingest` makes one (store.path names it)"
            )
        lock = WriterLock.take(path) if mode == "r+" else None
        try:
            root, attributes = _open_root(path, mode)
            store = cls(path, root, lock, attributes, mend=mend)
            if mode == "r+":
                store._sweep()
                store._resize(store.n_tracks)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return store

    @classmethod
    def open_or_create(cls, path: str | Path, teacher_name: str) -> Self:
        """Open for writing, creating the store if it is not there."""
        return cls.open(path, "r+") if (local_path(path) / "zarr.json").exists() else cls.create(path, teacher_name)

    @classmethod
    def shard_writer(cls, path: str | Path, recipe: Recipe) -> Features:
        """The features of `recipe`, to write strips beside a process that holds the store for writing.

        For the tasks of a stage: they call `write_strip` on rows that no other task has, and never `mark`.
        """
        path = local_path(path)
        root, _ = _open_root(path, "r+")
        return _features(path, root, recipe, committed_rows(root))

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
    def uuid(self) -> str:
        """Made once, at creation."""
        return str(self._attributes["uuid"])

    @property
    def teacher_name(self) -> str:
        """The model that the user declared to have made the vectors."""
        return str(self._attributes["teacher_name"])

    @teacher_name.setter
    def teacher_name(self, name: str) -> None:
        self._attributes = set_attributes(self.path, {"teacher_name": name})

    # --- the track table

    def append_tracks(self, tracks: Sequence[Track]) -> range:
        """Add rows; they appear together once everything else about them is written. Returns their rows."""
        if not tracks:
            return range(self.n_tracks, self.n_tracks)
        rows = range(self.n_tracks, self.n_tracks + len(tracks))
        self._resize(rows.stop)
        append_rows(self._root, self.n_tracks, tracks)
        self.n_tracks = rows.stop
        flush_directory(self.path / "state" / "c")
        # A lower bound: should the states be lost, this says that there were some.
        self._attributes = set_attributes(self.path, {_ROWS: rows.stop})
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

    def segment_teacher(self, row: int) -> npt.NDArray[np.float16]:
        """Teacher vectors of the segments of `row`, [segment, 512]; [0, 512] where there are none.

        Raises:
            CorruptShardError: they are counted, but damaged or gone.
        """
        n_segments = int(self.n_segment_teacher()[row])
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
            segment_vectors.create_segment_vectors(self.path, self.n_tracks)
        segment_vectors.write(self._root, rows, vectors)

    # --- features

    def recipes(self) -> dict[str, Recipe]:
        """The recipes that have a group, by name."""
        found = {}
        for folder in sorted((self.path / "features").glob("*/zarr.json")):
            attributes = read_document(folder.parent)["attributes"]
            if "recipe" in attributes:
                try:
                    found[folder.parent.name] = Recipe.from_attributes(attributes["recipe"])
                except ValueError as error:
                    raise StoreError(f"{folder}: {error}") from error
        return found

    def stored_fingerprint(self, name: str) -> str:
        """The fingerprint that stands beside the recipe of that name."""
        return str(read_document(self.path / "features" / name)["attributes"].get("fingerprint", ""))

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
        return _features(self.path, self._root, recipe, self.n_tracks)

    def outdate_features(self, rows: list[int]) -> None:
        """Take the marks of `rows` away in every recipe: their audio is another, and featurize makes them again."""
        for recipe in self.recipes().values():
            self.features(recipe).mark(rows, [NOT_MADE] * len(rows), [""] * len(rows))

    # --- inside

    def _create_features(self, recipe: Recipe) -> None:
        group = self.path / "features"
        if not (group / "zarr.json").exists():
            write_document(group, {"zarr_format": 3, "node_type": "group"})
        # A group without a recipe was never finished: no shard can be in it.
        shutil.rmtree(group / recipe.name, ignore_errors=True)
        create_features(self.path, recipe, self.n_tracks)

    def columns(self) -> list[zarr.Array[Any]]:
        """The one-dimensional arrays and the teacher's vectors, for who looks at their chunks."""
        return [array(self._root, folder.relative_to(self.path).as_posix()) for folder in self._columns()]

    def _columns(self) -> list[Path]:
        """The folders of the arrays that count tracks, without those of shards."""
        names = [*TABLE_COLUMNS, segment_vectors.COUNTS]
        names += [f"features/{recipe}/{column}" for recipe in self.recipes() for column in ("n_samples", "error")]
        return [self.path / name for name in names if (self.path / name / "zarr.json").exists()]

    def _sharded(self) -> list[Path]:
        """The folders of the arrays that have a file per track."""
        names = [segment_vectors.VECTORS, *(f"features/{recipe}/mel" for recipe in self.recipes())]
        return [self.path / name for name in names if (self.path / name / "zarr.json").exists()]

    def _sweep(self) -> None:
        """Remove what a killed writer left of metadata and columns, and of arrays that were never finished."""
        for unfinished in self.path.parent.glob(f".{self.path.name}.*.part"):
            shutil.rmtree(unfinished, ignore_errors=True)
        groups = [self.path, *(self.path / "features").glob("*/")]
        for folder in (*groups, *self._sharded()):
            sweep_partial_files(folder)
        for column in self._columns():
            sweep_partial_files(column)
            sweep_partial_files(column / "c")
        for chunk in (self.path / "teacher" / "c").glob("*/"):
            sweep_partial_files(chunk)

    def _resize(self, n_tracks: int) -> None:
        """Give every array that counts tracks `n_tracks` rows."""
        with ThreadPoolExecutor(_FLUSHES) as threads:  # the disk flushes several files in the time of one
            list(threads.map(lambda folder: set_rows(folder, n_tracks), (*self._columns(), *self._sharded())))


def member_folders(path: Path) -> list[Path]:
    """The folders of all groups and arrays of the store at `path` that are there or have to be.

    Raises:
        CorruptMetadataError: the zarr.json of a recipe's group is damaged.
    """
    folders = [path, *(path / name for name in TABLE_COLUMNS)]
    folders += [path / name for name in segment_vectors.SEGMENT_COLUMNS if (path / name).is_dir()]
    if (path / "features").is_dir():
        folders.append(path / "features")
    for group in sorted((path / "features").glob("*/")):
        folders.append(group)
        if "recipe" in read_document(group)["attributes"]:
            folders += [group / name for name in ("mel", "n_samples", "error")]
    return folders


def _open_root(path: Path, mode: Literal["r", "r+"]) -> tuple[zarr.Group, dict[str, Any]]:
    """The root group and its attributes, all metadata of the store having been checked."""
    document = read_document(path)
    attributes = document.get("attributes", {})
    found = (attributes.get("format"), attributes.get("format_version"))
    if found != (FORMAT, FORMAT_VERSION):
        raise StoreError(
            f"{path} holds {found[0]!r} version {found[1]!r}, expected {FORMAT!r} version {FORMAT_VERSION}"
        )
    for folder in member_folders(path):
        read_document(folder, sealed=is_sealed(document))
    root = zarr.open_group(DurableStore(path, read_only=mode == "r"), mode=mode)
    return root, dict(attributes)


def _features(path: Path, root: zarr.Group, recipe: Recipe, n_tracks: int) -> Features:
    name = f"features/{recipe.name}"
    return Features(_group(root, name, path), recipe, n_tracks, path / name)


def _group(root: zarr.Group, name: str, path: Path) -> zarr.Group:
    group = root.get(name)
    if not isinstance(group, zarr.Group):
        raise StoreError(f"{path} has no group {name}; the store is damaged or of another make")
    return group


def local_path(path: str | Path) -> Path:
    """The store's directory. Raises StoreError for a URL."""
    if isinstance(path, str) and "://" in path:
        raise StoreError(f"store.path is {path!r}; this version keeps stores in local or mounted directories only")
    return Path(path)
