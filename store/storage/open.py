"""The storage that a path or URL names, and whether it is read through a local cache."""

from __future__ import annotations

import sys
from pathlib import Path

from student_clap.config.runtime.text import readable_bytes
from student_clap.config.schema import StoreConfig
from student_clap.store.storage.base import CachedPath, Storage, StoragePath
from student_clap.store.storage.errors import StoreError


def open_storage(path: StoragePath) -> Storage:
    """The storage that a path or URL names; a storage as it is.

    Raises:
        StoreError: the URL is of another kind than s3://, the extra for it is not installed, or the folder of a local
            cache cannot be used.
    """
    if isinstance(path, Storage):
        return path
    url = path.url if isinstance(path, CachedPath) else path
    if isinstance(url, str) and "://" in url:
        if not url.startswith("s3://"):
            raise StoreError(f"store.path is {url!r}; expected a directory or s3://BUCKET/NAME.zarr")
        try:
            from student_clap.store.storage.bucket import BucketStorage
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "obstore":
                raise
            raise StoreError("a store on s3:// needs another package: pip install 'student-clap[s3]'") from None
        if not isinstance(path, CachedPath):
            return BucketStorage.of(url)
        if sys.platform == "win32":
            raise StoreError("store.local_cache needs locks that Windows does not have; remove the key")
        from student_clap.store.storage.cached_bucket import CachedBucketStorage

        return CachedBucketStorage.at(path)
    from student_clap.store.storage.directory import DirectoryStorage

    return DirectoryStorage(Path(url))


def reading_path(settings: StoreConfig) -> StoragePath:
    """Where the stages that read shards open the store: through `store.local_cache`, if it is in a bucket."""
    if settings.local_cache is None or "://" not in settings.path:
        return settings.path
    return CachedPath(settings.path, settings.local_cache, settings.local_cache_size)


def without_cache(path: StoragePath) -> StoragePath:
    """The store itself, also where it would be read through a local cache."""
    return path.url if isinstance(path, CachedPath) else path


def about_cache(settings: StoreConfig, shards: Storage) -> str:
    """A line on what the local cache has of these shards; "" where none is set.

    Raises:
        StoreError: the bucket cannot be listed.
    """
    if settings.local_cache is None:
        return ""
    found = shards.copied()
    if found is None:
        return "not used: store.path is a directory"
    n, of = len(found.sizes), len(found.of)
    there, whole = (readable_bytes(sum(sizes.values())) for sizes in (found.sizes, found.of))
    return f"{n} of {of} tracks, {there} of {whole}, in {found.folder}, which may take {readable_bytes(found.room)}"
