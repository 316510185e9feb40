"""The storage that a path or URL names."""

from __future__ import annotations

from pathlib import Path

from student_clap.store.storage.base import Storage, StoragePath
from student_clap.store.storage.errors import StoreError


def open_storage(path: StoragePath) -> Storage:
    """The storage that a path or URL names; a storage as it is.

    Raises:
        StoreError: the URL is of another kind than s3://, or the extra for it is not installed.
    """
    if isinstance(path, Storage):
        return path
    if isinstance(path, str) and "://" in path:
        if not path.startswith("s3://"):
            raise StoreError(f"store.path is {path!r}; expected a directory or s3://BUCKET/NAME.zarr")
        try:
            from student_clap.store.storage.bucket import BucketStorage
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "obstore":
                raise
            raise StoreError("a store on s3:// needs another package: pip install 'student-clap[s3]'") from None
        return BucketStorage.of(path)
    from student_clap.store.storage.directory import DirectoryStorage

    return DirectoryStorage(Path(path))
