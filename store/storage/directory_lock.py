"""The writer's lock: one process at a time, freed by the operating system when the process ends, however it ends.

A note next to the lock names the process that holds it. It outlives a writer that was killed, so that the
next one learns of it. No clock is read.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from student_clap.store.storage.base import Owner
from student_clap.store.storage.errors import StoreError

logger = logging.getLogger(__name__)

# On these a lock that was granted proves that no other process holds it. On the rest (NFS, SMB, FUSE, cluster file
# systems) it depends on the mount whether hosts see each other's locks.
LOCAL_FILE_SYSTEMS = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "ramfs", "overlay", "apfs", "hfs"}
)


class DirectoryLock:
    """The writer's lock of a store in a directory, held from `take` to `release`."""

    def __init__(self, lock: FileLock, note: Path) -> None:
        self._lock = lock
        self._note = note

    @classmethod
    def take(cls, store: Path) -> Self:
        """Take the lock of the store at `store`, a path that may lead there through symbolic links.

        Raises:
            StoreError: another process writes there, may be writing there from another host, or nothing can be locked.
        """
        lock = FileLock(_beside(store, ".lock"))
        note = _note_of(store)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(_refusal(store, _read(note), Path(lock.lock_file))) from None
        except OSError as error:
            raise StoreError(
                f"{store} cannot be locked for writing: {error.strerror or error}; stages that write need to create "
                f"{lock.lock_file}"
            ) from error
        try:
            _look_back(store, note)
            _write(note)
        except BaseException:
            lock.release()
            raise
        return cls(lock, note)

    @staticmethod
    def owner(store: Path) -> Owner | None:
        """The process that the note next to the lock names; None where there is none."""
        return _read(_note_of(store))

    def release(self) -> None:
        """Give the lock back."""
        self._note.unlink(missing_ok=True)
        self._lock.release()


def _note_of(store: Path) -> Path:
    return _beside(store, ".lock.json")


def _beside(store: Path, end: str) -> Path:
    """The file next to the store itself: all paths to one store have one lock."""
    there = without_links(store)
    return there.with_name(there.name + end)


def without_links(path: Path) -> Path:
    """The absolute path without symbolic links; of links in a circle what they are, which opening it refuses."""
    return Path(os.path.realpath(path))


def _look_back(store: Path, note: Path) -> None:
    """Log which writer left a note behind. Raises StoreError where it may be running on another host."""
    before = _read(note)
    if before is None:
        return
    if not before.is_here and not _is_local(store):
        raise StoreError(
            f"{before} was the last to write {store} and did not end in order; whether it still runs cannot be seen "
            f"from {socket.gethostname()}. Once it has ended, delete {note} and run the same command again"
        )
    logger.warning("%s, which wrote %s last, did not end in order; its unfinished files are cleared", before, store)


def _refusal(store: Path, owner: Owner | None, lock: Path) -> str:
    if owner is None:
        return f"{store} is being written by another process; wait for it to end, or stop it"
    if owner.is_here and not owner.is_alive:
        return (
            f"{store} is locked, but {owner}, which took the lock, has ended; a process that it started may still hold "
            f"it (`fuser {lock}` lists them): stop that one"
        )
    return f"{store} is being written by {owner}; wait for it to end, or stop it"


def _read(note: Path) -> Owner | None:
    try:
        return Owner.read(note.read_bytes())
    except OSError:
        return None


def _write(note: Path) -> None:
    try:
        note.write_text(json.dumps(asdict(Owner.here())), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{note} cannot be written: {error.strerror or error}; free some space there") from error


def _is_local(path: Path) -> bool:
    """Whether the file system below `path` belongs to this host alone."""
    if sys.platform != "linux":
        return False
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return False
    here = path.resolve()
    inside = [(Path(at.replace("\\040", " ")), kind) for _, at, kind, *_ in mounts]
    holding = [(len(at.parts), kind) for at, kind in inside if here.is_relative_to(at)]
    holding.reverse()  # of several mounts at one path the last one counts
    return bool(holding) and max(holding, key=lambda found: found[0])[1] in LOCAL_FILE_SYSTEMS
