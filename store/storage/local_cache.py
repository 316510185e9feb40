"""A folder of this machine that keeps copies of objects, within a size that all its processes share.

    <folder>/<store>/<array>/<row>.<version>   a copy (`checked_file`), another name for another content of the object
    <folder>/.used                             bytes of all copies, changed under its lock
    <folder>/.in-use, <array>/.in-use          locked by every process that reads here

What is in stays: a library that is larger than the folder's size is kept as far as it fits, whatever the order of
reading. Room is made only by copies of contents that are outdated, and of arrays that no process has open, those first
that were opened longest ago.

Guarantee: a copy appears whole or not at all; a damaged one is fetched again, never used. Processes may be killed at
any time, and the folder may be deleted: that costs the copies. What a killed process left is removed by the next one
that has the folder for itself. If the folder cannot be written to any more (full disk), a warning says so once per
process, which goes on without new copies.
Cost: an open, a stat and the reads for a copy; two locked changes of a small file to keep one.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import uuid
import weakref
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from student_clap.config.runtime.files import PARTIAL, sweep_partial_files
from student_clap.config.runtime.system_errors import in_words, naming
from student_clap.store.storage.errors import StoreError

logger = logging.getLogger(__name__)

_USED, _IN_USE = ".used", ".in-use"
_SHARE_OF_DISK = 0.5  # of what is free or taken by copies, without a size
_SLACK = 50  # room is made for this part of the size at least, so that it is not made for every copy
_LONGEST_NAME = 80


class LocalCache:
    """The folder, as one process has it open.

    Args:
        folder: made if need be.
        size: most bytes of all copies; None: half of the disk's free space.

    Raises:
        StoreError: the folder cannot be used.
    """

    def __init__(self, folder: Path, size: int | None) -> None:
        self.folder = folder
        self._keeps = True
        self._arrays: weakref.WeakValueDictionary[Path, Container[str]] = (
            weakref.WeakValueDictionary()
        )  # that are open here
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"store.local_cache: {folder} is not a folder; name another, or remove the key")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._counting() as count:
                _hold(self, folder, alone=lambda: self._recount(count))
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise StoreError(f"store.local_cache cannot be used: {in_words(error)}") from error
        self.size = int((free + count.used) * _SHARE_OF_DISK) if size is None else size

    def open_array(self, store: str, array: str, valid: Container[str]) -> Path:
        """The folder of an array's copies, in use as long as `valid` lives.

        Args:
            store: its URL.
            array: its path in the store.
            valid: the names of copies that are not outdated.
        """
        digest = hashlib.blake2b(store.encode(), digest_size=8).hexdigest()
        name = quote(store.rpartition("/")[2], safe="")[:_LONGEST_NAME]
        folder = self.folder / f"{name}-{digest}" / quote(array, safe="")[:_LONGEST_NAME]
        with self._trying(), self._counting():
            folder.mkdir(parents=True, exist_ok=True)
            _hold(valid, folder)
            self._arrays[folder] = valid
        return folder

    def reserve(self, n_bytes: int) -> bool:
        """Take room for a copy; False where there is none. `keep` or `give_back` follows."""
        if not self._keeps:
            return False
        with self._trying(), self._counting() as count:
            lacking = count.used + n_bytes - self.size
            if lacking > 0:
                count.used -= self._make_room(max(lacking, self.size // _SLACK))
            if count.used + n_bytes <= self.size:
                count.used += n_bytes
                return True
            self._keeps = False  # nor will there be for the next: what is in stays
        return False

    def give_back(self, n_bytes: int) -> None:
        """Free what was reserved."""
        with self._trying(), self._counting() as count:
            count.used -= n_bytes

    def keep(self, path: Path, parts: list[bytes | memoryview]) -> None:
        """Make these the content of `path`, for which room was reserved."""
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")
        with self._trying():
            try:
                with naming(path, instead_of=temporary), temporary.open("xb") as file:
                    file.writelines(parts)
                with self._counting() as count:
                    before = _size(path)  # another process may have been quicker
                    temporary.replace(path)
                    count.used -= before
            except BaseException:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                self.give_back(sum(len(part) for part in parts))
                raise

    def remove(self, path: Path) -> bool:
        """Remove a copy. Returns whether there was one."""
        freed = 0
        with self._trying(), self._counting() as count:
            freed = _remove(path)
            count.used -= freed
        return freed > 0

    def give_up(self, error: OSError) -> None:
        """Go on without new copies, and say why."""
        if self._keeps:
            self._keeps = False
            logger.warning(
                "store.local_cache: %s. Until then what is not there yet is read from the bucket", in_words(error)
            )

    # --- inside

    @contextmanager
    def _trying(self) -> Iterator[None]:
        """On an OSError of the block `give_up`."""
        try:
            with naming(self.folder):
                yield
        except OSError as error:
            self.give_up(error)

    @contextmanager
    def _counting(self) -> Iterator[_Count]:
        """Hold the lock of the count of bytes; it is written at the end of the block."""
        path = self.folder / _USED
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            text = os.pread(file, 32, 0)
            before = int(text) if text.strip().isdigit() else None
            count = _Count(self._total() if before is None else before)
            try:
                yield count
            finally:
                if count.used != before:
                    os.pwrite(file, b"%-20d\n" % max(0, count.used), 0)
        finally:
            os.close(file)

    def _recount(self, count: _Count) -> None:
        """What killed processes left is removed, and what is there counted; for one that has the folder for itself."""
        for array in self._array_folders():
            sweep_partial_files(array)
        count.used = self._total()

    def _array_folders(self) -> list[Path]:
        return [path.parent for path in self.folder.glob(f"*/*/{_IN_USE}")]

    def _total(self) -> int:
        return sum(size for array in self._array_folders() for size in copies_in(array).values())

    def _make_room(self, n_bytes: int) -> int:
        """Remove what nobody needs, `n_bytes` of it if there is so much. Returns how many were freed."""
        freed = 0
        mine = dict(self._arrays)
        for array, valid in mine.items():
            freed += sum(_remove(array / name) for name in copies_in(array) if name not in valid)
        others = [array for array in self._array_folders() if array not in mine]
        for array in sorted(others, key=lambda array: (array / _IN_USE).stat().st_mtime):
            if freed >= n_bytes:
                break
            with _alone(array) as nobody:
                for name in copies_in(array) if nobody else ():
                    if freed >= n_bytes:
                        break
                    freed += _remove(array / name)
        return freed


@dataclass
class _Count:
    """Bytes of all copies."""

    used: int


def _hold(holder: object, folder: Path, alone: Callable[[], None] = lambda: None) -> None:
    """Mark `folder` as in use as long as `holder` lives. Calls `alone` if nobody else uses it.

    The caller holds the count.
    """
    file = os.open(folder / _IN_USE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    weakref.finalize(holder, os.close, file)
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone()
    fcntl.flock(file, fcntl.LOCK_SH)
    os.utime(file)


@contextmanager
def _alone(array: Path) -> Iterator[bool]:
    """Whether no process has this array open; none can open it meanwhile, as the caller holds the count."""
    file = os.open(array / _IN_USE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(file)


def copies_in(array: Path) -> dict[str, int]:
    """Name -> bytes of the copies in a folder."""
    try:
        with os.scandir(array) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.name[0].isdecimal()}
    except FileNotFoundError:
        return {}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _remove(path: Path) -> int:
    """Remove a file. Returns its bytes; 0 where there was none."""
    size = _size(path)
    path.unlink(missing_ok=True)
    return size
