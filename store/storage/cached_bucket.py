"""A store in a bucket whose shards are read through a local cache; all else, and every write, goes to the bucket.

What a shard is now is asked once per array and storage, by listing, when the first of it is read: a thousand objects
per request. A shard that is replaced later is seen by a storage that is opened later, or where its copy does not
fit what the store says of it (`forget`).

Guarantee: what is read is the object as it was when its array was listed, or newer.
Cost: a shard that is not there is fetched whole, by one GET, where there is room for it, also where a part is wanted.
"""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Self

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from student_clap.store.storage.base import CachedPath, ChooseParts, Copied
from student_clap.store.storage.bucket import Bucket, BucketStorage, BucketZarrStore, Entry
from student_clap.store.storage.copies import Copies, Version
from student_clap.store.storage.local_cache import LocalCache

_SHARD = re.compile(r"(.+)/c/(\d+)/0/0")  # of the paths below the root


class Arrays:
    """The copies of a store's arrays, by their paths below its root, as they are first asked for."""

    def __init__(self, root: BucketStorage, cache: LocalCache) -> None:
        self.root = root
        self.cache = cache
        self._opened: dict[str, Copies] = {}
        self._lock = threading.Lock()

    def copies(self, array: str) -> Copies:
        """Those of one array. Raises StoreError where the bucket cannot be listed."""
        with self._lock:
            if array not in self._opened:
                entries = (self.root / array / "c").entries()
                versions = {entry.row: _version(entry) for entry in entries if entry.row is not None}
                self._opened[array] = Copies(self.cache, self.root.path, array, versions)
            return self._opened[array]


class CachedBucketStorage(BucketStorage):
    """A prefix or a key of a bucket."""

    def __init__(self, bucket: Bucket, key: str, arrays: Arrays) -> None:
        super().__init__(bucket, key)
        self._arrays = arrays

    @classmethod
    def at(cls, path: CachedPath) -> Self:
        """The store. Raises StoreError where the URL or the folder cannot be used."""
        root = BucketStorage.of(path.url)
        return cls(root.bucket, root.key, Arrays(root, LocalCache(path.folder, path.size)))

    def _at(self, key: str) -> Self:
        return type(self)(self.bucket, key, self._arrays)

    @property
    def source(self) -> CachedPath:
        """The URL and the folder."""
        cache = self._arrays.cache
        return CachedPath(self.path, cache.folder, cache.size)

    def read_bytes(self) -> bytes:
        """The content. Raises FileNotFoundError, StoreError."""
        parts = self.copied_parts(0, lambda _, size: [(0, size)])
        return super().read_bytes() if parts is None else parts[0]

    def read_parts(self, tail: int, choose: ChooseParts) -> list[bytes]:
        """Parts of the content. Raises FileNotFoundError, StoreError."""
        parts = self.copied_parts(tail, choose)
        return super().read_parts(tail, choose) if parts is None else parts

    def copied_parts(self, tail: int, choose: ChooseParts) -> list[bytes] | None:
        """As `read_parts`, from a copy or, where there is room for one, by it; else None."""
        shard = self._shard()
        if shard is None:
            return None
        copies, row = shard
        parts = copies.read(row, tail, choose)
        if parts is None:
            data = copies.fetch(row, self._get)
            if data is not None:
                parts = [data[begin:end] for begin, end in choose(data[max(0, len(data) - tail) :], len(data))]
        return parts

    def _get(self) -> tuple[bytes, Version]:
        data, entry = self.get()
        return data, _version(entry)

    def _shard(self) -> tuple[Copies, int] | None:
        """The copies of its array, and its row; None if it is no shard."""
        found = _SHARD.fullmatch(self._below())
        return None if found is None else (self._arrays.copies(found[1]), int(found[2]))

    def _below(self) -> str:
        return self.key.removeprefix(f"{self._arrays.root.key}/")

    def forget(self) -> bool:
        """Remove the copy of a shard."""
        shard = self._shard()
        return shard is not None and shard[0].remove(shard[1])

    def copied(self) -> Copied | None:
        """What the cache has of the shards in this folder, <array>/c."""
        copies, cache = self._arrays.copies(self._below().removesuffix("/c")), self._arrays.cache
        of = {row: version.size for row, version in copies.versions.items()}
        return Copied(cache.folder, cache.size, copies.there(), of)

    def zarr_store(self, *, read_only: bool) -> CachedZarrStore:
        """zarr's view of the store."""
        return CachedZarrStore(self, read_only=read_only)


class CachedZarrStore(BucketZarrStore):
    """zarr's store in a bucket, its shards read through the local cache."""

    def __init__(self, storage: CachedBucketStorage, *, read_only: bool) -> None:
        super().__init__(storage, read_only=read_only)
        self._cached = storage

    def with_read_only(self, read_only: bool = False) -> Self:  # noqa: FBT001, FBT002  zarr's signature
        """The same store, read-only or not."""
        return type(self)(self._cached, read_only=read_only)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The content of an object, or of a part; None where there is none."""
        if _SHARD.fullmatch(key):

            def choose(_: bytes, size: int) -> list[tuple[int, int]]:
                return [_range(byte_range, size)]

            try:
                parts = await asyncio.to_thread((self._cached / key).copied_parts, 0, choose)
            except FileNotFoundError:
                return None
            if parts is not None:
                return prototype.buffer.from_bytes(parts[0])
        return await super().get(key, prototype, byte_range)


def _range(wanted: ByteRequest | None, size: int) -> tuple[int, int]:
    match wanted:
        case None:
            return 0, size
        case RangeByteRequest():
            return min(wanted.start, size), min(wanted.end, size)
        case OffsetByteRequest():
            return min(wanted.offset, size), size
        case SuffixByteRequest():
            return max(0, size - wanted.suffix), size


def _version(entry: Entry) -> Version:
    return Version.of(entry.version, entry.size)
