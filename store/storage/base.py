"""The interface of a storage, which is a directory or a bucket, and of the lock of its writer.

Guarantee: a file or object appears whole or not at all, in both. Only `DirectoryStorage` and `BucketStorage` know which
of the two it is.
"""

from __future__ import annotations

import os
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

from zarr.abc.store import Store

from student_clap.config.formats.json_text import parse_json

ChooseParts: TypeAlias = Callable[[bytes, int], list[tuple[int, int]]]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Lock(Protocol):
    """The right to write a store, held from when it was taken."""

    def release(self) -> None:
        """Give the lock back. May be called once."""


@dataclass(frozen=True)
class Owner:
    """The process that holds the lock, or held it last, as the lock's note names it."""

    pid: int
    host: str
    command: str

    @classmethod
    def here(cls) -> Self:
        """This process."""
        command = " ".join(Path(a).name if i == 0 else a for i, a in enumerate(sys.argv[:2]))
        return cls(os.getpid(), socket.gethostname(), command)

    @classmethod
    def read(cls, note: str | bytes) -> Self | None:
        """The owner in a note; None where it cannot be read."""
        try:
            found = parse_json(note)
            return cls(int(found["pid"]), str(found["host"]), str(found["command"]))
        except (ValueError, KeyError, TypeError, OverflowError):
            return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.command})"

    @property
    def is_here(self) -> bool:
        """Whether it ran on this host."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether a process of that number runs on this host; meant for owners that are here."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


@dataclass(frozen=True)
class CachedPath:
    """A store in a bucket whose shards are read through a folder of this machine; to read, not to write.

    Args:
        url: s3:// URL of the store.
        folder: of copies.
        size: most bytes of all that is in the folder; None: half of its disk's free space.
    """

    url: str
    folder: Path
    size: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder).expanduser().absolute())


@dataclass(frozen=True)
class Copied:
    """What a local cache has of the shards in a folder."""

    folder: Path  # of the cache
    room: int  # bytes that the cache may take
    sizes: dict[int, int]  # row -> bytes, of the shards that have a copy
    of: dict[int, int]  # of all


class Storage(ABC):
    """A store's root, or a folder or a file below it; `/` leads down."""

    threads: ClassVar[int]  # requests that are worth having under way at once
    locks_before_it_is_there: ClassVar[bool]  # whether `create` could mix with another's

    # --- names

    @property
    @abstractmethod
    def path(self) -> Path | str:
        """The Path or the text of the URL, as the user gave it."""

    @property
    @abstractmethod
    def address(self) -> str:
        """An absolute path or URL: valid in every working directory, and where the storage is shared, on every host."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part."""

    @property
    @abstractmethod
    def parent(self) -> Self:
        """The folder around it."""

    @property
    def source(self) -> StoragePath:
        """What opens it again as it is opened here, in any process of this machine. Can be pickled."""
        return self.address

    @abstractmethod
    def __truediv__(self, name: str) -> Self:
        """The file or folder of this name, or relative path, below this one."""

    def __str__(self) -> str:
        return str(self.path)

    # --- a file

    @abstractmethod
    def read_bytes(self) -> bytes:
        """The content. Raises FileNotFoundError if there is none, StoreError if it cannot be read."""

    @abstractmethod
    def read_parts(self, tail: int, choose: ChooseParts) -> list[bytes]:
        """Parts of the content, chosen by what its end says.

        Args:
            tail: how many bytes of the end are wanted first; all of it, if it has fewer.
            choose: given the end and the size of the whole, returns [(begin, end)], the parts that are wanted.

        Returns:
            The parts, in the order of `choose`. Of a file that another process replaces meanwhile they may be parts of
            both.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it cannot be read.
        """

    def forget(self) -> bool:
        """Remove a copy that is kept nearer than the file itself, so that the next reading asks for the file.

        Returns whether there was one.
        """
        return False

    @abstractmethod
    def write(self, data: bytes, *, flush_name: bool = True) -> None:
        """Make `data` the content.

        Args:
            data: all of it.
            flush_name: wait until a power cut cannot bring the old content back.

        Raises:
            StoreError: it cannot be written.
        """

    @abstractmethod
    def exists(self) -> bool:
        """Whether this file is there."""

    @abstractmethod
    def unlink(self, *, missing_ok: bool = True) -> None:
        """Remove this file."""

    # --- a folder

    @abstractmethod
    def folders(self) -> list[str]:
        """Names of the folders in this one, sorted; [] if it is not there."""

    @abstractmethod
    def row_sizes(self) -> dict[int, int]:
        """Row -> bytes, for every file <row>/0/0 in this folder."""

    def copied(self) -> Copied | None:
        """Which of the files <row>/0/0 in this folder have a copy nearer than the file; None: copies are not kept."""
        return None

    @abstractmethod
    def absent(self, names: Sequence[str]) -> list[str]:
        """Those of the files, by their paths below this folder, that are not there."""

    @abstractmethod
    def create(self, files: dict[str, bytes]) -> None:
        """Make this folder with these files, by their paths below it; it counts when its own zarr.json is there.

        Raises StoreError if a file cannot be written.
        """

    @abstractmethod
    def clear(self) -> None:
        """Remove this folder and all that is in it."""

    @abstractmethod
    def sweep(self, *, unfinished: bool = False) -> None:
        """Remove the temporary files of killed writers in this folder.

        Args:
            unfinished: also remove the half-made folders that a killed `create` left next to this one.
        """

    @abstractmethod
    def sweep_rows(self, counted: Callable[[], Container[int]]) -> None:
        """Remove the temporary files that killed writers left next to <row>/0/0 in this folder.

        Args:
            counted: the rows that need not be looked at, asked for only where there is something to look for.
        """

    @abstractmethod
    def flush(self) -> None:
        """Make the names in this folder survive a power cut."""

    # --- the root

    @abstractmethod
    def check_free(self, names: Iterable[str]) -> None:
        """Raise StoreError unless a store can be created here out of files of these names, or if it cannot be asked."""

    @abstractmethod
    def check_reachable(self) -> None:
        """Raise StoreError where a store could not be seen from here, if there were one."""

    @abstractmethod
    def zarr_store(self, *, read_only: bool) -> Store:
        """zarr's view of the store; a `HasStorage`."""

    @abstractmethod
    def take_lock(self) -> Lock:
        """Take the writer's lock of the store. Raises StoreError where another process has it."""

    @abstractmethod
    def writer(self) -> Owner | None:
        """The process that writes the store, or was the last to and did not end in order; None where nothing says so.

        Takes no lock and writes nothing. Raises StoreError where the storage cannot be asked.
        """

    def each(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """[function(item) for item in items], several at once where that is faster."""
        if self.threads == 1:
            return [function(item) for item in items]
        with ThreadPoolExecutor(self.threads) as threads:
            return list(threads.map(function, items))


@runtime_checkable
class HasStorage(Protocol):
    """A zarr store that knows its storage."""

    storage: Storage


StoragePath: TypeAlias = Storage | CachedPath | Path | str
