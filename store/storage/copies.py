"""The copies of one array's objects in a local cache, each of a certain content of its object.

Guarantee: a copy is of the very content that was asked for; a damaged one is fetched again, never used.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from student_clap.store.storage.base import ChooseParts
from student_clap.store.storage.checked_file import DamagedError, encoded, header_bytes, read_parts
from student_clap.store.storage.local_cache import LocalCache, copies_in

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """A content of an object."""

    token: str  # another for another content
    size: int  # bytes

    @classmethod
    def of(cls, text: str, size: int) -> Version:
        """The version that an object store calls `text`."""
        return cls(hashlib.blake2b(text.encode(), digest_size=8).hexdigest(), size)


class Copies:
    """The copies of the objects of one array.

    Args:
        cache: where they lie.
        store: its URL.
        array: its path in the store.
        versions: row -> what its object is. May change later.
    """

    def __init__(self, cache: LocalCache, store: str, array: str, versions: dict[int, Version]) -> None:
        self._cache = cache
        self.versions = versions
        self._folder = cache.open_array(store, array, self)

    def __contains__(self, name: object) -> bool:
        """Whether the file of that name is a copy of what an object is now."""
        row, _, token = str(name).partition(".")
        version = self.versions.get(int(row)) if row.isdecimal() else None
        return version is not None and version.token == token

    def read(self, row: int, tail: int, choose: ChooseParts) -> list[bytes] | None:
        """As `Storage.read_parts`, from the copy of `row`; None where there is none that is whole."""
        version = self.versions.get(row)
        if version is None:
            return None
        path = self._path(row, version)
        try:
            return read_parts(path, self._name(path), version.size, tail, choose)
        except FileNotFoundError:
            return None
        except DamagedError as error:
            logger.warning("store.local_cache: %s is damaged (%s); it is fetched again", path, error)
            self._cache.remove(path)
        except OSError as error:
            self._cache.give_up(error)
        return None

    def fetch(self, row: int, get: Callable[[], tuple[bytes, Version]]) -> bytes | None:
        """The object of `row`, by `get`, and kept; None where there is no room for it, and then it was not asked for.

        Raises what `get` does.
        """
        if row not in self.versions:
            return None
        reserved = _file_bytes(self.versions[row].size)
        if not self._cache.reserve(reserved):
            return None
        try:
            data, version = get()
        except BaseException:
            self._cache.give_back(reserved)
            raise
        self.versions[row] = version
        if _file_bytes(len(data)) != reserved:  # the object was replaced
            self._cache.give_back(reserved)
            if not self._cache.reserve(_file_bytes(len(data))):
                return data
        path = self._path(row, version)
        self._cache.keep(path, encoded(self._name(path), data))
        return data

    def remove(self, row: int) -> bool:
        """Remove the copy of `row`. Returns whether there was one."""
        return row in self.versions and self._cache.remove(self._path(row, self.versions[row]))

    def there(self) -> dict[int, int]:
        """Row -> bytes of the objects that have a copy."""
        rows = [int(name.partition(".")[0]) for name in copies_in(self._folder) if name in self]
        return {row: self.versions[row].size for row in rows}

    def _path(self, row: int, version: Version) -> Path:
        return self._folder / f"{row}.{version.token}"

    @staticmethod
    def _name(path: Path) -> str:
        return f"{path.parent.parent.name}/{path.parent.name}/{path.name}"


def _file_bytes(size: int) -> int:
    return header_bytes(size) + size
