"""Files of the store that survive a power cut: written beside their place, flushed to the disk, then renamed.

Guarantee: after a kill or a power cut a file is the old one or the new one, whole. A write that fails (disk full,
read-only directory) leaves the old file and says why.
Cost: one flush of the file per write, and one of its directory where asked for; no CPU to speak of.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from student_clap.config.runtime.files import write_bytes_atomically
from student_clap.store.storage.errors import StoreError

if TYPE_CHECKING:
    from student_clap.store.storage.base import Storage

_REMEDIES = {
    errno.ENOSPC: "free some space there and run the same command again",
    errno.EDQUOT: "the quota is used up: free some space and run the same command again",
    errno.EFBIG: "the system's limit of a file's size (ulimit -f) is too low: raise it and run the same command again",
    errno.EROFS: "the file system is mounted read-only: mount it for writing, or set another store.path",
    errno.EACCES: "this user may not write there: change the owner or the permissions, or set another store.path",
    errno.EPERM: "this user may not write there: change the owner or the permissions, or set another store.path",
}


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a StoreError that names `target` and the remedy."""
    try:
        yield
    except OSError as error:
        code = error.errno or 0
        remedy = _REMEDIES.get(code, "mend that and run the same command again")
        reason = os.strerror(code) if code else str(error)
        raise StoreError(
            f"{target} cannot be written: {reason}; {remedy}. What was there before is untouched"
        ) from error


def write_durably(target: Path, data: bytes | bytearray | memoryview, *, name_too: bool = True) -> None:
    """Make `data` the content of `target`; its directory is made if need be.

    Args:
        target: the file.
        data: its new content.
        name_too: flush the directory as well. Without it a power cut may bring the old file back, whole.

    Raises:
        StoreError: it cannot be written.
    """
    with writing(target):
        write_bytes_atomically(target, data, flush_name=name_too)


class DurableStore(LocalStore):
    """zarr's store in a directory, its files whole after a power cut and its errors clear.

    Args:
        root: the directory.
        place: the same, for who gets hold of the zarr store only.
        read_only: whether nothing may be written.
    """

    def __init__(self, root: Path, place: Storage, *, read_only: bool) -> None:
        super().__init__(root, read_only=read_only)
        self.place = place

    def with_read_only(self, read_only: bool = False) -> Self:  # noqa: FBT001, FBT002  zarr's signature
        """The same directory, read-only or not."""
        return type(self)(self.root, self.place, read_only=read_only)

    async def set(self, key: str, value: Buffer) -> None:
        """Write `value`; see `write_durably`."""
        self._check_writable()
        await asyncio.to_thread(write_durably, self.root / key, value.to_bytes(), name_too=False)
