"""FeatureStore: the one door to the Zarr store, format 1.

Guarantee: a reader sees committed rows and marked strips only. One process writes the one-dimensional arrays at a time,
held by a lock file beside the store that the operating system frees when the process ends, however it ends.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import uuid
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import zarr
from filelock import FileLock, Timeout

from student_clap.store.errors import RecipeMismatchError, StoreError
from student_clap.store.features import Features, create_features, sweep_partial_files
from student_clap.store.recipe import Recipe
from student_clap.store.tracks import (
    STRING_COLUMNS,
    State,
    Track,
    append_rows,
    array,
    committed_rows,
    create_table,
    read_strings,
    update_column,
)

FORMAT = "student-clap-features"
FORMAT_VERSION = 1


class FeatureStore:
    """Tracks, teacher vectors and features. Use as a context manager where it is opened for writing."""

    def __init__(self, path: Path, root: zarr.Group, lock: FileLock | None) -> None:
        self.path = path
        self._root = root
        self._lock = lock
        self.n_tracks = committed_rows(root)

    @classmethod
    def create(cls, path: str | Path, teacher_name: str) -> Self:
        """Create an empty store and open it for writing. Raises StoreError if something is there."""
        path = _local(path)
        if path.exists():
            raise StoreError(f"{path} is there already; choose another store.path or delete it")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Built aside and renamed, so that a store is there whole or not at all.
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        root = zarr.create_group(
            str(aside),
            attributes={
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "uuid": uuid.uuid4().hex,
                "package_version": version("student-clap"),
                "teacher_name": teacher_name,
            },
        )
        create_table(root)
        try:
            aside.rename(path)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise StoreError(f"{path} cannot be created: {error}") from error
        return cls.open(path, "r+")

    @classmethod
    def open(cls, path: str | Path, mode: Literal["r", "r+"] = "r") -> Self:
        """Open a store.

        Args:
            path: directory of the store.
            mode: "r" to read; "r+" to write, which takes the writer's lock and clears what a killed writer left.

        Raises:
            StoreError: there is no store, it has another format, or another process is writing.
        """
        path = _local(path)
        if not (path / "zarr.json").exists():
            raise StoreError(
                f"there is no feature store at {path}; `student-clap ingest` makes one (store.path names it)"
            )
        lock = _take_lock(path) if mode == "r+" else None
        root = zarr.open_group(str(path), mode=mode)
        found = (root.attrs.get("format"), root.attrs.get("format_version"))
        if found != (FORMAT, FORMAT_VERSION):
            if lock is not None:
                lock.release()
            raise StoreError(
                f"{path} holds {found[0]!r} version {found[1]!r}, expected {FORMAT!r} version {FORMAT_VERSION}"
            )
        store = cls(path, root, lock)
        if mode == "r+":
            store._sweep()
            store._resize(store.n_tracks)
        return store

    @classmethod
    def open_or_create(cls, path: str | Path, teacher_name: str) -> Self:
        """Open for writing, creating the store if it is not there."""
        return cls.open(path, "r+") if (_local(path) / "zarr.json").exists() else cls.create(path, teacher_name)

    @classmethod
    def shard_writer(cls, path: str | Path, recipe: Recipe) -> Features:
        """The features of `recipe`, to write strips beside a process that holds the store for writing.

        For the tasks of a stage: they call `write_strip` on rows that no other task has, and never `mark`.
        """
        path = _local(path)
        root = zarr.open_group(str(path), mode="r+")
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
        return str(self._root.attrs["uuid"])

    @property
    def teacher_name(self) -> str:
        """The model that the user declared to have made the vectors."""
        return str(self._root.attrs["teacher_name"])

    @teacher_name.setter
    def teacher_name(self, name: str) -> None:
        self._root.attrs["teacher_name"] = name

    # --- the track table

    def append_tracks(self, tracks: Sequence[Track]) -> range:
        """Add rows; they appear together once everything else about them is written. Returns their rows."""
        if not tracks:
            return range(self.n_tracks, self.n_tracks)
        rows = range(self.n_tracks, self.n_tracks + len(tracks))
        self._resize(rows.stop)
        append_rows(self._root, self.n_tracks, tracks)
        self.n_tracks = rows.stop
        return rows

    def strings(self, name: str) -> list[str]:
        """A text column as a list, one entry per track."""
        if name not in STRING_COLUMNS:
            raise KeyError(f"{name}: no text column; there are {', '.join(STRING_COLUMNS)}")
        return read_strings(array(self._root, name), self.n_tracks)

    def states(self) -> npt.NDArray[np.uint8]:
        """[track] State values."""
        return np.asarray(array(self._root, "state")[: self.n_tracks])

    def teacher(self, begin: int = 0, end: int | None = None) -> npt.NDArray[np.float32]:
        """Teacher vectors of rows [begin, end), [track, 512]; NaN rows have none."""
        end = self.n_tracks if end is None else min(end, self.n_tracks)
        return np.asarray(array(self._root, "teacher")[begin:end])

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

    # --- features

    def recipes(self) -> dict[str, Recipe]:
        """The recipes that have a group, by name."""
        if "features" not in self._root:
            return {}
        found = {}
        for name, group in zarr.open_group(self._root.store_path / "features", mode="r").groups():
            if "recipe" in group.attrs:
                found[name] = Recipe.from_attributes(dict(group.attrs["recipe"]))  # type: ignore[arg-type]
        return found

    def stored_fingerprint(self, name: str) -> str:
        """The fingerprint that stands beside the recipe of that name."""
        return str(_group(self._root, f"features/{name}", self.path).attrs.get("fingerprint", ""))

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
            create_features(self._root, recipe, self.n_tracks)
        elif stored != recipe:
            lines = "\n".join(f"  - {line}" for line in stored.differences(recipe))
            raise RecipeMismatchError(
                f"the {recipe.name!r} features of {self.path} were made with another recipe:\n{lines}\n"
                "Use the configuration they were made with, or another store.path."
            )
        return _features(self.path, self._root, recipe, self.n_tracks)

    # --- inside

    def _sweep(self) -> None:
        """Remove what a killed writer left of metadata and one-dimensional arrays."""
        folders = [self.path, *(self.path / name for name in (*STRING_COLUMNS, "teacher", "state"))]
        for recipe_name in self.recipes():
            group = self.path / "features" / recipe_name
            folders += [group, group / "mel", group / "n_samples", group / "error"]
        for folder in folders:
            for leaf in (folder, folder / "c", *(folder / "c").glob("[0-9]*")) if folder.name != "mel" else (folder,):
                sweep_partial_files(leaf)

    def _resize(self, n_tracks: int) -> None:
        """Give every array that counts tracks `n_tracks` rows."""
        arrays = [array(self._root, name) for name in (*STRING_COLUMNS, "teacher", "state")]
        for name in self.recipes():
            group = self._root[f"features/{name}"]
            if isinstance(group, zarr.Group):
                arrays += [array(group, column) for column in ("mel", "n_samples", "error") if column in group]
        for member in arrays:
            if member.shape[0] != n_tracks:
                member.resize((n_tracks, *member.shape[1:]))


def _features(path: Path, root: zarr.Group, recipe: Recipe, n_tracks: int) -> Features:
    name = f"features/{recipe.name}"
    return Features(_group(root, name, path), recipe, n_tracks, path / name)


def _group(root: zarr.Group, name: str, path: Path) -> zarr.Group:
    group = root.get(name)
    if not isinstance(group, zarr.Group):
        raise StoreError(f"{path} has no group {name}; the store is damaged or of another make")
    return group


def _local(path: str | Path) -> Path:
    if isinstance(path, str) and "://" in path:
        raise StoreError(f"store.path is {path!r}; this version keeps stores in local or mounted directories only")
    return Path(path)


def _take_lock(path: Path) -> FileLock:
    lock = FileLock(path.with_name(path.name + ".lock"))
    owner = path.with_name(path.name + ".lock.json")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            who: dict[str, Any] = json.loads(owner.read_text(encoding="utf-8"))
            held_by = f"process {who['pid']} on {who['host']} ({who['command']})"
        except (OSError, ValueError, KeyError):
            held_by = "another process"
        raise StoreError(f"{path} is being written by {held_by}; wait for it to end, or stop it") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be locked for writing: {error}") from error
    command = " ".join(Path(a).name if i == 0 else a for i, a in enumerate(sys.argv[:2]))
    owner.write_text(
        json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "command": command}), encoding="utf-8"
    )
    return lock
