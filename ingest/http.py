"""Downloads: one connection pool, retries, and files that are whole or not there.

Guarantee: a body that is shorter than promised, or whose end cannot be told, never becomes a file; the token goes in
headers, to the server it was made for and to no other; no header and no query string is logged.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import json
import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter

from student_clap.config.atomic import atomic_file
from student_clap.config.schema import IngestConfig
from student_clap.ingest.container import HEAD_BYTES, NotAudioError, audio_extension
from student_clap.ingest.errors import FetchError, SourceError, StoppedError

logger = logging.getLogger(__name__)

_AGAIN = frozenset({408, 425, 429})  # and 5xx
_MAX_REDIRECTS = 5
_MAX_WAIT_S = 60.0  # of the back-off
_MAX_RETRY_AFTER_S = 300.0  # a server that asks for more is left to the next run
_BLOCK_BYTES = 1 << 17
_T = TypeVar("_T")


class _AgainError(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class HttpClient:
    """One server's client, for use by several threads. Use as a context manager.

    Args:
        base_url: of the server the token is for.
        config: gives concurrency, timeout and retries.
        stop: set to end waits and downloads early.
    """

    def __init__(self, base_url: str, config: IngestConfig, stop: threading.Event) -> None:
        self.address = _shown(base_url).rstrip("/")  # for messages
        self._base_url = base_url.rstrip("/")
        self.token_headers: dict[str, str] = {}
        self._home = urlsplit(base_url)
        self._config = config
        self._stop = stop
        self._session = requests.Session()
        adapter = HTTPAdapter(pool_connections=4, pool_maxsize=config.concurrency)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        # Compressed bodies have no Content-Length to compare with, and audio does not compress.
        self._session.headers.update({"User-Agent": "student-clap", "Accept-Encoding": "identity"})
        # Without an auth of its own, requests would put a ~/.netrc entry in the place of our header.
        self._session.auth = _leave_as_it_is

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def get_json(self, path: str, token_headers: dict[str, str]) -> Any:
        """GET a JSON document with other token headers. Raises FetchError, a permanent one if it is no JSON."""

        def once() -> Any:
            with self._open(path, token_headers) as response:
                try:
                    return json.loads(b"".join(self._blocks(response, _content_length(response))))
                except ValueError:
                    raise FetchError("the answer is no JSON", permanent=True) from None

        return self._attempts(path, once)

    def download(self, path: str, stem: Path) -> Path:
        """Download audio to `stem` plus the extension that its content asks for.

        Returns:
            The file's path; it appears when it is whole.

        Raises:
            FetchError: with the reason; `permanent` as retrying would or would not help.
            SourceError: the file cannot be written.
            StoppedError: `stop` was set meanwhile.
        """
        return self._attempts(path, lambda: self._download_once(path, stem))

    def _download_once(self, path: str, stem: Path) -> Path:
        with self._open(path, self.token_headers) as response:
            promised = _content_length(response)
            if promised is None and response.headers.get("Transfer-Encoding", "").lower() != "chunked":
                raise FetchError(
                    "the server sends neither a Content-Length nor chunks, so a cut-off file could not be told",
                    permanent=True,
                )
            blocks = self._blocks(response, promised)
            head = b""
            for block in blocks:
                head += block
                if len(head) >= HEAD_BYTES:
                    break
            try:
                extension = audio_extension(head)
            except NotAudioError as error:
                raise FetchError(f"the server sent no audio: {error}", permanent=True) from None
            target = stem.with_name(f"{stem.name}.{extension}")
            try:
                with atomic_file(target) as file:
                    file.write(head)
                    for block in blocks:
                        file.write(block)
            except OSError as error:  # of the disk: `_blocks` has none of its own
                raise SourceError(f"cannot write {target}: {error.strerror or error}") from None
            return target

    def _blocks(self, response: requests.Response, promised: int | None) -> Iterator[bytes]:
        """The body; ends normally only where it is complete."""
        n_bytes = 0
        try:
            for block in response.iter_content(_BLOCK_BYTES):
                if self._stop.is_set():
                    raise StoppedError
                n_bytes += len(block)
                yield block
        except OSError as error:  # requests' errors are OSErrors
            if isinstance(error, requests.exceptions.ChunkedEncodingError) and _is_reset(error):
                raise _AgainError("the connection was reset in the middle of the file") from None
            if "timed out" in str(error):
                raise _AgainError(f"no data for {self._config.timeout_s:g} s in the middle of the file") from None
            raise _AgainError(f"the file broke off after {_of(response.raw.tell(), promised)}") from None
        if promised is not None and n_bytes != promised:
            raise _AgainError(f"the file broke off after {_of(n_bytes, promised)}")

    @contextmanager
    def _open(self, path: str, token_headers: dict[str, str]) -> Iterator[requests.Response]:
        """A response with status 200, its body unread; redirects followed, the token left at home."""
        url = self._base_url + path
        for _ in range(_MAX_REDIRECTS + 1):
            at_home = self._is_home(url)
            response = self._send(url, token_headers if at_home else {})
            try:
                logger.debug("GET %s -> %d", _shown(url), response.status_code)
                if not response.is_redirect:
                    if not at_home and response.status_code in (401, 403):
                        raise FetchError(
                            f"the server redirects to {_shown(url)}, where the token is not sent;"
                            " set the URL to that server's if it is yours",
                            permanent=True,
                        )
                    _check_status(response)
                    yield response
                    return
                url = urljoin(url, response.headers["Location"])
            finally:
                response.close()
        raise FetchError(f"more than {_MAX_REDIRECTS} redirects", permanent=True)

    def _send(self, url: str, token_headers: dict[str, str]) -> requests.Response:
        timeout_s = self._config.timeout_s
        try:
            return self._session.get(
                url,
                headers=token_headers,
                timeout=(timeout_s, timeout_s),
                stream=True,
                allow_redirects=False,
            )
        except requests.exceptions.SSLError as error:
            raise FetchError(
                f"no secure connection ({_innermost(error)}); for a certificate of your own set REQUESTS_CA_BUNDLE",
                permanent=True,
            ) from None
        except requests.exceptions.Timeout:
            raise _AgainError(f"no answer within {timeout_s:g} s") from None
        except requests.exceptions.ConnectionError as error:
            raise _AgainError(f"no connection: {_innermost(error)}") from None
        except (requests.RequestException, UnicodeError) as error:
            raise FetchError(
                f"the address {_shown(url)} cannot be used: {type(error).__name__}", permanent=True
            ) from None

    def _is_home(self, address: str) -> bool:
        """Whether the token may go there: the same origin, or the same host's step from http to https."""
        home, url = self._home, urlsplit(address)
        if url.hostname != home.hostname:
            return False
        ports = (_port(home), _port(url))
        return (home.scheme == url.scheme and ports[0] == ports[1]) or (
            (home.scheme, url.scheme) == ("http", "https") and ports == (80, 443)
        )

    def _attempts(self, what: str, once: Callable[[], _T]) -> _T:
        for attempt in range(self._config.retries + 1):
            if self._stop.is_set():
                raise StoppedError
            try:
                return once()
            except _AgainError as error:
                last = error
            if attempt == self._config.retries or last.retry_after_s > _MAX_RETRY_AFTER_S:
                break
            # Jitter, so that parallel downloads do not come back all at once.
            wait_s = min(self._config.backoff_s * 2**attempt, _MAX_WAIT_S) * random.uniform(0.75, 1.25)
            wait_s = max(wait_s, last.retry_after_s)
            logger.debug("%s: %s; again in %.1f s", what, last.reason, wait_s)
            if self._stop.wait(wait_s):
                raise StoppedError
        tried = f" (tried {attempt + 1} times)" if attempt else ""
        raise FetchError(last.reason + tried, permanent=False)


def _leave_as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    if status == 200:
        return
    reason = f"the server answers {status} {response.reason or ''}".rstrip()
    if status in _AGAIN or status >= 500:
        raise _AgainError(reason, _retry_after_s(response.headers.get("Retry-After", "")))
    raise FetchError(reason, permanent=True, status=status)


def _retry_after_s(value: str) -> float:
    """Retry-After as seconds or as a date (RFC 9110, 10.2.3); 0 where it is neither."""
    if value.strip().isdecimal():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    when = when if when.tzinfo else when.replace(tzinfo=dt.UTC)
    return max(0.0, (when - dt.datetime.now(dt.UTC)).total_seconds())


def _content_length(response: requests.Response) -> int | None:
    value = response.headers.get("Content-Length", "")
    encoded = response.headers.get("Content-Encoding", "identity").lower() != "identity"
    return int(value) if value.isdecimal() and not encoded else None


def _port(url: SplitResult) -> int | None:
    return url.port or {"http": 80, "https": 443}.get(url.scheme)


def _of(n_bytes: int, promised: int | None) -> str:
    return f"{n_bytes} bytes" if promised is None else f"{n_bytes} of {promised} bytes"


def _is_reset(error: BaseException) -> bool:
    return "reset" in str(error).lower()


def _innermost(error: BaseException) -> str:
    """What the operating system said, without the address that the libraries above add."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        inner = [a for a in (*current.args, getattr(current, "reason", None)) if isinstance(a, BaseException)]
        current = inner[0] if inner else current.__cause__ or current.__context__
    for found in reversed(seen):
        if isinstance(found, OSError) and found.strerror:
            return found.strerror.lower()
    return type(seen[-1]).__name__


def _shown(url: str) -> str:
    """`url` without its query, where servers hide secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{_port(parts)}{parts.path}"
