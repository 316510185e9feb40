"""A store in a bucket, `s3://BUCKET/NAME.zarr`: Amazon's S3, and others with its protocol (MinIO, Ceph, R2, Garage).

Endpoint, region and credentials come from the usual environment: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN; without keys from the machine's role.

Guarantee: an object appears whole, by one PUT, and is seen by every request that begins later (S3 promises both). No
conditional request is made. Requests that time out or are refused for load (503 SlowDown) are repeated for a minute.
Cost: a track is read by one GET and written by one PUT; opening takes some 30 GETs, most at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from student_clap.config.runtime.text import one_line
from student_clap.store.storage.base import ChooseParts, Owner, Storage
from student_clap.store.storage.bucket_lock import BucketLock
from student_clap.store.storage.errors import StoreError, UnreadableError

if TYPE_CHECKING:
    from obstore import ObjectMeta

RETRIES = 8
_RETRY_S = 60
TIMEOUT_S = 30
_CONNECT_S = 5
_COALESCED = 128 * 1024  # bytes between two parts that are read with them, in the time of a request
_FEW = 2  # up to this many names are asked for one by one
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_RIGHTS = "give this user GetObject, PutObject, DeleteObject and ListBucket on it, or " + _KEYS
_LOAD = "the object store is overloaded; run the same command again, with fewer workers if it lasts"
_REGION = "the bucket is in another region: set AWS_REGION"
# Error codes of S3, then texts of the client; the first that is found counts.
_REMEDIES = {
    "NoSuchBucket": "there is no such bucket: make it, or set another store.path or AWS_ENDPOINT_URL",
    "InvalidAccessKeyId": "the object store does not know the access key: " + _KEYS,
    "SignatureDoesNotMatch": "the secret key is wrong: " + _KEYS,
    "InvalidToken": "the session's token is wrong: set AWS_SESSION_TOKEN again",
    "ExpiredToken": "the session has expired: set AWS_SESSION_TOKEN and its keys again",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "AuthorizationHeaderMalformed": _REGION,
    "PermanentRedirect": _REGION,
    "AccessDenied": "access is denied: " + _RIGHTS,
    "QuotaExceeded": "the quota is used up: free some space",
    "SlowDown": _LOAD,
    "ServiceUnavailable": _LOAD,
    "169.254.169.254": "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "301 Moved": _REGION,
    "401 Unauthorized": _KEYS,
    "403 Forbidden": "access is denied: " + _RIGHTS,
    "429 Too Many": _LOAD,
    "503 Service": _LOAD,
    "kind: Timeout": "the object store did not answer in time; check AWS_ENDPOINT_URL and the network",
    "error sending request": "the object store cannot be reached; check AWS_ENDPOINT_URL and the network",
    "HTTP error": "the object store cannot be reached; check AWS_ENDPOINT_URL and the network",
}
_DENIED = ("AccessDenied", "403 Forbidden")  # of one object, while others may be read
_LONGEST = 200


@contextmanager
def asking(url: str, *, write: bool = False) -> Iterator[None]:
    """Turn the client's exceptions inside the block into a StoreError about `url`, with the remedy and without secrets.

    Raises:
        FileNotFoundError: there is no such object.
        StoreError: the rest; its cause is a ConnectionError, so that a task can tell it from a fault of its track.
    """
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        if "NoSuchBucket" not in str(error):
            raise FileNotFoundError(url) from None
        raise _as_store_error(url, str(error), write=write) from ConnectionError("NoSuchBucket")
    except (BaseError, PermissionError, ValueError) as error:
        raise _as_store_error(url, str(error), write=write) from ConnectionError(type(error).__name__)


def _as_store_error(url: str, text: str, *, write: bool) -> StoreError:
    done = "written" if write else "read"
    remedy = next((remedy for code, remedy in _REMEDIES.items() if code in text), None)
    kind = UnreadableError if not write and any(code in text for code in _DENIED) else StoreError
    return kind(f"{url} cannot be {done}: {remedy or _without_secrets(text)}")


def _without_secrets(text: str) -> str:
    for name in _SECRETS:
        if value := os.environ.get(name):
            text = text.replace(value, "***")
    text = text.partition("Debug source")[0]
    return one_line(re.sub(r"//[^/@\s]+@", "//", text), _LONGEST)


def _nothing() -> None:
    pass


@dataclass
class Bucket:
    """A connection to a bucket."""

    name: str
    client: S3Store
    guard: Callable[[], None] = _nothing  # called before each write; raises where the writer's lock was lost

    @classmethod
    def connect(cls, name: str) -> Self:
        """Read the environment; no request is made."""
        return cls(name, _client(name, None))


def _client(bucket: str, prefix: str | None) -> S3Store:
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "https://")
    if not endpoint.startswith(("http://", "https://")):
        raise StoreError("AWS_ENDPOINT_URL has to begin with http:// or https://")
    plain = endpoint.startswith("http://")  # only where the user asks for it
    return S3Store(
        bucket,
        prefix=prefix,
        client_options={"allow_http": plain, "timeout": f"{TIMEOUT_S}s", "connect_timeout": f"{_CONNECT_S}s"},
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=_RETRY_S)},
    )


@dataclass(frozen=True)
class Entry:
    """An object in a listing."""

    name: str  # below the folder that was listed
    size: int
    modified: datetime  # by the object store's clock
    e_tag: str | None = None

    @classmethod
    def of(cls, name: str, found: ObjectMeta) -> Self:
        """What the object store says of it."""
        return cls(name, int(found["size"]), found["last_modified"], found["e_tag"])

    @property
    def row(self) -> int | None:
        """The row whose shard it is, in a listing of an array's `c`; None of what is no shard."""
        row, _, chunk = self.name.partition("/")
        return int(row) if chunk == "0/0" and row.isdecimal() else None

    @property
    def version(self) -> str:
        """Another for another content: the ETag, or the time to the second where the object store gives none."""
        tag = (self.e_tag or "").removeprefix("W/").strip('"')
        return f"{tag or int(self.modified.timestamp())} {self.size}"


class BucketStorage(Storage):
    """A prefix or a key of a bucket."""

    threads = 16
    locks_before_it_is_there = True

    def __init__(self, bucket: Bucket, key: str) -> None:
        self.bucket = bucket
        self._key = key

    @classmethod
    def of(cls, url: str) -> Self:
        """The storage of an s3:// URL. Raises StoreError where it is not one, or holds credentials."""
        name, _, key = url.removeprefix("s3://").rstrip("/").partition("/")
        if "@" in name:
            raise StoreError("store.path holds credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
        if not name or any(part in ("", ".", "..") for part in key.split("/")):
            raise StoreError(f"store.path is {url!r}; expected s3://BUCKET/NAME.zarr")
        with asking(url):
            return cls(Bucket.connect(name), key)

    # --- names

    @property
    def path(self) -> str:
        """The URL."""
        return f"s3://{self.bucket.name}/{self._key}"

    @property
    def address(self) -> str:
        """The URL."""
        return self.path

    @property
    def name(self) -> str:
        """The last part."""
        return self._key.rpartition("/")[2]

    @property
    def key(self) -> str:
        """What of the URL follows the bucket."""
        return self._key

    @property
    def parent(self) -> Self:
        """The prefix around it."""
        return self._at(self._key.rpartition("/")[0])

    def __truediv__(self, name: str) -> Self:
        return self._at(f"{self._key}/{name}".strip("/"))

    def _at(self, key: str) -> Self:
        return type(self)(self.bucket, key)

    # --- an object

    def read_bytes(self) -> bytes:
        """The content, by one GET. Raises FileNotFoundError, StoreError."""
        return self.get()[0]

    def get(self) -> tuple[bytes, Entry]:
        """As `read_bytes`, and which object it was."""
        with asking(self.path):
            found = obstore.get(self.bucket.client, self._key)
            return found.bytes().to_bytes(), Entry.of(self.name, found.meta)

    def read_parts(self, tail: int, choose: ChooseParts) -> list[bytes]:
        """Parts of the content: one GET for the end, then one for each part that lies apart from the others.

        Raises FileNotFoundError, StoreError.
        """
        with asking(self.path):
            end = obstore.get(self.bucket.client, self._key, options={"range": {"suffix": tail}})
            data, size = end.bytes().to_bytes(), end.meta["size"]
        parts = choose(data, size)
        if not parts:
            return []
        begins, ends = zip(*parts, strict=True)
        with asking(self.path):
            found = obstore.get_ranges(self.bucket.client, self._key, starts=begins, ends=ends, coalesce=_COALESCED)
        return [part.to_bytes() for part in found]

    def write(self, data: bytes, *, flush_name: bool = True) -> None:  # noqa: ARG002
        """Make `data` the content, by one PUT."""
        self.bucket.guard()
        self.put(data)

    def put(self, data: bytes) -> None:
        """As `write`, without asking whether this process has the lock."""
        with asking(self.path, write=True):
            obstore.put(self.bucket.client, self._key, data, use_multipart=False)

    def exists(self) -> bool:
        """Whether there is an object."""
        try:
            with asking(self.path):
                obstore.head(self.bucket.client, self._key)
        except FileNotFoundError:
            return False
        return True

    def unlink(self, *, missing_ok: bool = True) -> None:
        """Remove the object."""
        self.bucket.guard()
        self.delete(missing_ok=missing_ok)

    def delete(self, *, missing_ok: bool = True) -> None:
        """As `unlink`, without asking whether this process has the lock."""
        try:
            with asking(self.path, write=True):
                obstore.delete(self.bucket.client, self._key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    # --- a prefix

    def entries(self) -> Iterator[Entry]:
        """The objects below, however deep. A thousand per request."""
        with asking(self.path):
            for page in obstore.list(self.bucket.client, self._key + "/"):
                for found in page:
                    below = str(found["path"]).removeprefix(self._key + "/")
                    yield Entry.of(below, found)

    def folders(self) -> list[str]:
        """Names of the prefixes below this one."""
        with asking(self.path):
            found = obstore.list_with_delimiter(self.bucket.client, self._key + "/")
        return sorted(str(prefix).rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"])

    def row_sizes(self) -> dict[int, int]:
        """Row -> bytes."""
        return {entry.row: entry.size for entry in self.entries() if entry.row is not None}

    def absent(self, names: Sequence[str]) -> list[str]:
        """Those that are not there."""
        if len(names) <= _FEW:
            return [name for name in names if not (self / name).exists()]
        there = {entry.name for entry in self.entries()}
        return [name for name in names if name not in there]

    def create(self, files: dict[str, bytes]) -> None:
        """Write the objects, this folder's own zarr.json last."""
        self.each(lambda name: (self / name).write(files[name]), [name for name in files if name != "zarr.json"])
        (self / "zarr.json").write(files["zarr.json"])

    def clear(self) -> None:
        """Remove all objects below."""
        self.each(lambda entry: (self / entry.name).unlink(), list(self.entries()))

    def sweep(self, *, unfinished: bool = False) -> None:
        """Nothing to do: a PUT that was broken off leaves nothing."""

    def sweep_rows(self, counted: Callable[[], Container[int]]) -> None:
        """Nothing to do, as above."""

    def flush(self) -> None:
        """Nothing to do: a PUT that was answered is safe."""

    # --- the root

    def check_free(self, names: Iterable[str]) -> None:
        """Raise StoreError if there is anything but the objects of a `create` that was killed."""
        half_made = set(names) - {"zarr.json"}
        self.check_reachable()
        if any(entry.name not in half_made for entry in self.entries()):
            raise StoreError(f"{self} is there already; choose another store.path or delete it")

    def check_reachable(self) -> None:
        """Raise StoreError where there is no such bucket, or its objects may not be listed."""
        try:
            next(self.entries(), None)
        except FileNotFoundError:
            raise StoreError(
                f"{self}: there is no bucket {self.bucket.name!r}; make it, or set another store.path or "
                "AWS_ENDPOINT_URL"
            ) from None

    def zarr_store(self, *, read_only: bool) -> BucketZarrStore:
        """zarr's view of the store."""
        return BucketZarrStore(self, read_only=read_only)

    def take_lock(self) -> BucketLock:
        """Take the writer's lock, an object next to the store; writes from here on are made under it."""
        lock = BucketLock.take(self)
        self.bucket.guard = lock.check
        return lock

    def writer(self) -> Owner | None:
        """As the newest reservation names it."""
        return BucketLock.owner(self)

    def client_below(self) -> S3Store:
        """A client to which keys below this prefix are relative."""
        return _client(self.bucket.name, self._key)

    def may_write(self) -> None:
        """Raise StoreError where the writer's lock was lost."""
        self.bucket.guard()


class BucketZarrStore(ObjectStore[Any]):
    """zarr's store in a bucket, its errors clear and its writes under the writer's lock."""

    def __init__(self, storage: BucketStorage, *, read_only: bool) -> None:
        super().__init__(storage.client_below(), read_only=read_only)
        self.storage = storage

    def with_read_only(self, read_only: bool = False) -> Self:  # noqa: FBT001, FBT002  zarr's signature
        """The same store, read-only or not."""
        return type(self)(self.storage, read_only=read_only)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The content of an object, or of a part; None where there is none."""
        with asking(f"{self.storage}/{key}"):
            return await super().get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Whether there is an object."""
        with asking(f"{self.storage}/{key}"):
            return await super().exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Write an object."""
        self._check_writable()
        self.storage.may_write()
        with asking(f"{self.storage}/{key}", write=True):
            await obstore.put_async(self.store, key, value.to_bytes(), use_multipart=False)
