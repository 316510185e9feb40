"""The writer's lock: one process at a time, freed by the operating system when the process ends, however it ends.

A note beside the lock says who holds it. It outlives a writer that was killed, and so tells the next one. Nothing here
reads a clock.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from student_clap.store.storage.errors import StoreError

logger = logging.getLogger(__name__)

# Where a lock that was granted is proof that nobody else holds it. On the rest (NFS, SMB, FUSE, cluster file systems)
# it depends on the mount whether hosts see each other's locks.
_LOCAL_FILE_SYSTEMS = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "ramfs", "overlay", "apfs", "hfs"}
)


@dataclass(frozen=True)
class Owner:
    """Who holds the lock, or held it last."""

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
        """Who a note names; None where it cannot be read."""
        try:
            found = json.loads(note)
            return cls(int(found["pid"]), str(found["host"]), str(found["command"]))
        except (ValueError, KeyError, TypeError):
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


class WriterLock:
    """Held from `take` to `release`."""

    def __init__(self, lock: FileLock, note: Path) -> None:
        self._lock = lock
        self._note = note

    @classmethod
    def take(cls, store: Path) -> Self:
        """Take the lock of the store at `store`.

        Raises:
            StoreError: another process writes there, may be writing there from another host, or nothing can be locked.
        """
        lock = FileLock(store.with_name(store.name + ".lock"))
        note = store.with_name(store.name + ".lock.json")
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

    def release(self) -> None:
        """Give the lock back."""
        self._note.unlink(missing_ok=True)
        self._lock.release()


def _look_back(store: Path, note: Path) -> None:
    """Say who left a note behind. Raises StoreError where that writer may be running on another host."""
    before = _read(note)
    if before is None:
        return
    if not before.is_here and not _is_local(store):
        raise StoreError(
            f"{before} was the last to write {store} and did not end in order; whether it still runs cannot be seen "
            f"from {socket.gethostname()}. Once it has ended, delete {note} and run the same command again"
        )
    logger.warning("%s, which wrote %s last, did not end in order; what it left half done is cleared", before, store)


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
    holding.reverse()  # of mounts at one place the last one counts
    return bool(holding) and max(holding, key=lambda found: found[0])[1] in _LOCAL_FILE_SYSTEMS
