"""What an object store says when it refuses, in our words: the bucket, the reason, the remedy. No secret is shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import BaseError, NotFoundError

from student_clap.store.storage.errors import StoreError

_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_RIGHTS = "give this user GetObject, PutObject, DeleteObject and ListBucket on it, or " + _KEYS
_LOAD = "the object store is overloaded; run the same command again, with fewer workers if it lasts"
_REGION = "the bucket is in another region: set AWS_REGION"
# Error codes of S3, then marks in the client's own words; the first that is found counts.
_REMEDIES = {
    "NoSuchBucket": "there is no such bucket: make it, or set another store.path or AWS_ENDPOINT_URL",
    "InvalidAccessKeyId": "the object store does not know the access key: " + _KEYS,
    "SignatureDoesNotMatch": "the secret key is wrong: " + _KEYS,
    "InvalidToken": "the session's token is wrong: set AWS_SESSION_TOKEN anew",
    "ExpiredToken": "the session has expired: set AWS_SESSION_TOKEN and its keys anew",
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
_LONGEST = 200


@contextmanager
def asking(url: str, *, write: bool = False) -> Iterator[None]:
    """Turn what the client raises inside the block into a StoreError about `url`.

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
    remedy = next((remedy for mark, remedy in _REMEDIES.items() if mark in text), None)
    return StoreError(f"{url} cannot be {done}: {remedy or _without_secrets(text)}")


def _without_secrets(text: str) -> str:
    for name in _SECRETS:
        if value := os.environ.get(name):
            text = text.replace(value, "***")
    text = text.partition("Debug source")[0]
    return re.sub(r"//[^/@\s]+@", "//", " ".join(text.split()))[:_LONGEST]
