"""Where a store lies: what the rest of the store needs of a directory or of a bucket, and nothing else.

Guarantee: what is written appears whole or not at all, in both. Only `DirectoryStorage` and `BucketStorage` know
which it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

from zarr.abc.store import Store

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Lock(Protocol):
    """The right to write a store, held from when it was taken."""

    def release(self) -> None:
        """Give it back."""


class Storage(ABC):
    """A store's root, or a folder or a file below it; `/` leads down."""

    threads: ClassVar[int]  # requests that are worth having under way at once
    locks_before_it_is_there: ClassVar[bool]  # whether `create` could mix with another's

    # --- names

    @property
    @abstractmethod
    def path(self) -> Path | str:
        """As it was given: a Path, or the text of a URL."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Text that leads here from every directory, and where it is shared, from every host."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part."""

    @property
    @abstractmethod
    def parent(self) -> Self:
        """The folder around it."""

    @abstractmethod
    def __truediv__(self, name: str) -> Self:
        """What has this name, or relative path, below."""

    def __str__(self) -> str:
        return str(self.path)

    # --- a file

    @abstractmethod
    def read_bytes(self) -> bytes:
        """The content. Raises FileNotFoundError if there is none, StoreError if it cannot be asked."""

    @abstractmethod
    def write(self, data: bytes, *, name_too: bool = True) -> None:
        """Make `data` the content.

        Args:
            data: all of it.
            name_too: wait until a power cut cannot bring the old content back.

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

    @abstractmethod
    def absent(self, names: Sequence[str]) -> list[str]:
        """Those of the files, by their paths below this folder, that are not there."""

    @abstractmethod
    def create(self, files: dict[str, bytes]) -> None:
        """Make this folder with these files, by their paths below it; it counts when its own zarr.json is there."""

    @abstractmethod
    def clear(self) -> None:
        """Remove this folder and all that is in it."""

    @abstractmethod
    def sweep(self, *, unfinished: bool = False) -> None:
        """Remove what killed writers left in this folder; with `unfinished` also what `create` left beside it."""

    @abstractmethod
    def flush(self) -> None:
        """Bring the names in this folder to where a power cut leaves them."""

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

    def each(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """[function(item) for item in items], several at once where that is faster."""
        if self.threads == 1:
            return [function(item) for item in items]
        with ThreadPoolExecutor(self.threads) as threads:
            return list(threads.map(function, items))


@runtime_checkable
class HasStorage(Protocol):
    """A zarr store that knows where it lies."""

    place: Storage


StoragePath: TypeAlias = Storage | Path | str
