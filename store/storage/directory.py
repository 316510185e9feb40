"""A store in a directory, local or mounted.

Guarantee: a file is written under another name, flushed to the disk, then renamed, so that after a kill or a power cut
it is the old one or the new one, whole. A write that fails (disk full, read-only directory) leaves the old file, and
the error names the remedy.
Cost: one flush of the file per write, and one of its directory where asked for; no CPU to speak of.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from student_clap.config.runtime.files import (
    check_regular,
    flush_directory,
    read_regular_file,
    sweep_partial_files,
    write_bytes_atomically,
)
from student_clap.config.runtime.system_errors import OTHER_REMEDY, REMEDIES
from student_clap.config.runtime.text import reason
from student_clap.store.storage.base import ChooseParts, Owner, Storage
from student_clap.store.storage.directory_lock import DirectoryLock, without_links
from student_clap.store.storage.errors import StoreError, UnreadableError

_MAX_FILE_BYTES = 1 << 30  # shards and chunks have some megabytes
_READ_REMEDIES = {
    errno.EACCES: "this user may not read it: change the owner or the permissions, and run the same command again",
    errno.EPERM: "this user may not read it: change the owner or the permissions, and run the same command again",
    errno.EIO: "the disk fails there: look into the system's log, and copy what can be read to another disk",
    errno.ESTALE: "the network file system has lost it: mount it again, and run the same command again",
    errno.EISDIR: "a folder lies in the place of that file: move it away, and run `student-clap store repair --deep`",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n), and run the same command again",
}


@contextmanager
def reading(target: Path) -> Iterator[None]:
    """Turn an OSError inside the block into an UnreadableError that names `target` and the remedy.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableError: the rest.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from error
    except OSError as error:
        code = error.errno or 0
        remedy = _READ_REMEDIES.get(code, OTHER_REMEDY)
        why = error.strerror or reason(error)
        raise UnreadableError(f"{target} cannot be read: {why}; {remedy}") from error


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a StoreError that names `target` and the remedy."""
    try:
        yield
    except OSError as error:
        code = error.errno or 0
        remedy = REMEDIES.get(code, OTHER_REMEDY)
        why = os.strerror(code) if code else reason(error)
        raise StoreError(
            f"{target} cannot be written: {why}; {remedy}. Files that were there before are untouched"
        ) from error


def write_durably(target: Path, data: bytes | bytearray | memoryview, *, flush_name: bool = True) -> None:
    """Make `data` the content of `target`; its directory is made if need be.

    Args:
        target: the file.
        data: its new content.
        flush_name: flush the directory as well. Without it a power cut may bring the old file back, whole.

    Raises:
        StoreError: it cannot be written.
    """
    with writing(target):
        write_bytes_atomically(target, data, flush_name=flush_name)


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
        """The content. Raises FileNotFoundError, UnreadableError."""
        with reading(self._path):
            return read_regular_file(self._path, _MAX_FILE_BYTES)

    def read_parts(self, tail: int, choose: ChooseParts) -> list[bytes]:
        """Parts of the content. Raises FileNotFoundError, UnreadableError."""
        with reading(self._path):
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                check_regular(file, self._path, _MAX_FILE_BYTES)
                size = os.fstat(file).st_size
                begin = max(0, size - tail)
                parts = choose(os.pread(file, size - begin, begin), size)
                return [os.pread(file, end - begin, begin) for begin, end in parts]
            finally:
                os.close(file)

    def write(self, data: bytes, *, flush_name: bool = True) -> None:
        """Make `data` the content, by a temporary file and a rename."""
        write_durably(self._path, data, flush_name=flush_name)

    def exists(self) -> bool:
        """Whether it is there. Raises UnreadableError where the system does not say."""
        with reading(self._path):
            return self._path.exists()

    def unlink(self, *, missing_ok: bool = True) -> None:
        """Remove this file."""
        self._path.unlink(missing_ok=missing_ok)

    def folders(self) -> list[str]:
        """Names of the directories in this one."""
        try:
            with reading(self._path), os.scandir(self._path) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return []

    def row_sizes(self) -> dict[int, int]:
        """Row -> bytes; 0 for a file that is there, but that the system does not let look at."""
        # A listing of one directory, then one look per entry: no path objects, which would double the time.
        folder = str(self._path)
        sizes = {}
        try:
            with reading(self._path):
                names = os.listdir(folder)  # noqa: PTH208
        except FileNotFoundError:
            return {}
        for name in names:
            if name.isdecimal():
                try:
                    sizes[int(name)] = os.stat(f"{folder}/{name}/0/0").st_size  # noqa: PTH116
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError:
                    sizes[int(name)] = 0  # reading it says why
        return sizes

    def absent(self, names: Sequence[str]) -> list[str]:
        """Those that are not there, or are not files."""
        with reading(self._path):
            return [name for name in names if not (self._path / name).is_file()]

    def create(self, files: dict[str, bytes]) -> None:
        """Make this directory. Built aside and renamed, so that it is there whole or not at all."""
        target = without_links(self._path)  # not next to a symbolic link, which may be on another disk
        root = target
        while root.parent.name and (root.parent / "zarr.json").exists():  # next to the store, never in it
            root = root.parent
        aside = root.with_name(f".{root.name}.{uuid.uuid4().hex}.part")
        try:
            with writing(self._path):
                root.parent.mkdir(parents=True, exist_ok=True)
                for name, data in files.items():
                    write_durably(aside / name, data, flush_name=False)
                aside.rename(target)
                flush_directory(target.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def clear(self) -> None:
        """Remove the tree."""
        shutil.rmtree(self._path, ignore_errors=True)

    def sweep(self, *, unfinished: bool = False) -> None:
        """Remove temporary files, and with `unfinished` the half-made directories next to this one."""
        sweep_partial_files(self._path)
        if unfinished:
            there = without_links(self._path)
            for folder in there.parent.glob(f".{there.name}.*.part"):
                shutil.rmtree(folder, ignore_errors=True)

    def sweep_rows(self, counted: Callable[[], Container[int]]) -> None:
        """Remove temporary files in the folders of rows."""
        rows = [name for name in self.folders() if name.isdecimal()]
        left = counted() if rows else ()
        for name in rows:
            if int(name) not in left:
                sweep_partial_files(self._path / name / "0")

    def flush(self) -> None:
        """Bring the names in this directory to the disk."""
        flush_directory(self._path)

    def check_free(self, names: Iterable[str]) -> None:  # noqa: ARG002
        """Raise StoreError if anything is there."""
        if self._path.exists():
            raise StoreError(f"{self} is there already; choose another store.path or delete it")

    def check_reachable(self) -> None:
        """A directory that is not there is not there."""

    def zarr_store(self, *, read_only: bool) -> DirectoryZarrStore:
        """zarr's view of the directory."""
        return DirectoryZarrStore(self._path, self, read_only=read_only)

    def take_lock(self) -> DirectoryLock:
        """Take the writer's lock, a file next to the store."""
        return DirectoryLock.take(self._path)

    def writer(self) -> Owner | None:
        """As the note next to the lock names it."""
        return DirectoryLock.owner(self._path)


class DirectoryZarrStore(LocalStore):
    """zarr's store in a directory, its files whole after a power cut and its errors clear.

    Args:
        root: the directory.
        storage: the same directory, for code that has the zarr store only.
        read_only: whether nothing may be written.
    """

    def __init__(self, root: Path, storage: Storage, *, read_only: bool) -> None:
        super().__init__(root, read_only=read_only)
        self.storage = storage

    def with_read_only(self, read_only: bool = False) -> Self:  # noqa: FBT001, FBT002  zarr's signature
        """The same directory, read-only or not."""
        return type(self)(self.root, self.storage, read_only=read_only)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The content of a file, or of a part; None where there is none. Raises UnreadableError."""
        with reading(self.root / key):
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):  # zarr takes them for absent
                await asyncio.to_thread(check_regular, self.root / key, self.root / key, _MAX_FILE_BYTES)
            return await super().get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Whether there is a file. Raises UnreadableError where the system does not say."""
        with reading(self.root / key):
            return await super().exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Write `value`; see `write_durably`."""
        self._check_writable()
        await asyncio.to_thread(write_durably, self.root / key, value.to_bytes(), flush_name=False)
