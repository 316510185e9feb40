"""A store in a directory, local or mounted. See `durable` for what is guaranteed of its files."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from student_clap.config.runtime.files import flush_directory, sweep_partial_files
from student_clap.store.storage.base import Storage
from student_clap.store.storage.durable import (
    DurableStore,
    write_durably,
    writing,
)
from student_clap.store.storage.errors import StoreError
from student_clap.store.storage.lock import WriterLock


class DirectoryStorage(Storage):
    """A directory or a file."""

    threads = 1
    locks_before_it_is_there = False  # of two that rename at once, one fails

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        """As it was given."""
        return self._path

    @property
    def address(self) -> str:
        """The absolute path."""
        return str(self._path.resolve())

    @property
    def name(self) -> str:
        """The last part."""
        return self._path.name

    @property
    def parent(self) -> Self:
        """The directory around it."""
        return type(self)(self._path.parent)

    def __truediv__(self, name: str) -> Self:
        return type(self)(self._path / name)

    def read_bytes(self) -> bytes:
        """The content. Raises FileNotFoundError."""
        try:
            return self._path.read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(*error.args) from error

    def write(self, data: bytes, *, name_too: bool = True) -> None:
        """Make `data` the content, by a temporary file and a rename."""
        write_durably(self._path, data, name_too=name_too)

    def exists(self) -> bool:
        """Whether it is there."""
        return self._path.exists()

    def unlink(self, *, missing_ok: bool = True) -> None:
        """Remove this file."""
        self._path.unlink(missing_ok=missing_ok)

    def folders(self) -> list[str]:
        """Names of the directories in this one."""
        try:
            with os.scandir(self._path) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def row_sizes(self) -> dict[int, int]:
        """Row -> bytes."""
        # A listing of one directory, then one look per entry: no path objects, which would double the time.
        folder = str(self._path)
        sizes = {}
        for name in os.listdir(folder) if os.path.isdir(folder) else []:  # noqa: PTH112, PTH208
            if name.isdecimal():
                try:
                    sizes[int(name)] = os.stat(f"{folder}/{name}/0/0").st_size  # noqa: PTH116
                except (FileNotFoundError, NotADirectoryError):
                    continue
        return sizes

    def absent(self, names: Sequence[str]) -> list[str]:
        """Those that are not there."""
        return [name for name in names if not (self._path / name).exists()]

    def create(self, files: dict[str, bytes]) -> None:
        """Make this directory. Built aside and renamed, so that it is there whole or not at all."""
        root = self._path
        while root.parent.name and (root.parent / "zarr.json").exists():  # aside is beside the store, never in it
            root = root.parent
        aside = root.with_name(f".{root.name}.{uuid.uuid4().hex}.part")
        try:
            with writing(self._path):
                root.parent.mkdir(parents=True, exist_ok=True)
                for name, data in files.items():
                    write_durably(aside / name, data, name_too=False)
                aside.rename(self._path)
                flush_directory(self._path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def clear(self) -> None:
        """Remove the tree."""
        shutil.rmtree(self._path, ignore_errors=True)

    def sweep(self, *, unfinished: bool = False) -> None:
        """Remove temporary files, and with `unfinished` what `create` left beside this directory."""
        sweep_partial_files(self._path)
        if unfinished:
            for folder in self._path.parent.glob(f".{self._path.name}.*.part"):
                shutil.rmtree(folder, ignore_errors=True)

    def flush(self) -> None:
        """Bring the names in this directory to the disk."""
        flush_directory(self._path)

    def check_free(self, names: Iterable[str]) -> None:  # noqa: ARG002
        """Raise StoreError if anything is there."""
        if self._path.exists():
            raise StoreError(f"{self} is there already; choose another store.path or delete it")

    def check_reachable(self) -> None:
        """A directory that is not there is not there."""

    def zarr_store(self, *, read_only: bool) -> DurableStore:
        """zarr's view of the directory."""
        return DurableStore(self._path, self, read_only=read_only)

    def take_lock(self) -> WriterLock:
        """Take the writer's lock, a file beside the store."""
        return WriterLock.take(self._path)
