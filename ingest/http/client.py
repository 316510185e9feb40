"""The client of one server: a connection pool, redirects, credentials, and the error that an answer stands for.

Guarantee: credentials go to the server they were made for and to no other; no header and no query string is logged or
stands in an exception; an answer that is cut off is never taken for a whole one. `retry` repeats attempts, `body`
reads bodies.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlencode, urljoin, urlsplit

import requests
import urllib3

from student_clap.config.formats.json_text import parse_json
from student_clap.config.runtime.text import one_line, readable_bytes
from student_clap.config.schema import IngestConfig
from student_clap.ingest.http.body import Body
from student_clap.ingest.http.deadline import DeadlineAdapter
from student_clap.ingest.http.errors import FetchError, SourceError, nothing_unforeseen
from student_clap.ingest.http.retry import Retries, RetryError, retry_after_s
from student_clap.ingest.http.secrets import Sent, masked

logger = logging.getLogger(__name__)
# It writes whole URLs, in which some servers want their secrets: of every request, and of headers that are damaged.
logging.getLogger("urllib3").setLevel(logging.CRITICAL)

_RETRIED = frozenset({408, 425, 429})  # and 5xx
_MAX_REDIRECTS = 5
_REASON_CHARACTERS = 120  # of a status line's own words
_PUBLIC = frozenset({"u", "v"})  # of Subsonic's query: the user and the version
MAX_JSON_BYTES = 256_000_000
T = TypeVar("T")


@dataclass(frozen=True)
class Credentials:
    """The proof of identity for the home server. It is sent to no other server and shown nowhere.

    `secret` is what the headers and the query are made from.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: str = field(default="", repr=False)

    def secrets(self) -> Iterator[str]:
        """The texts that must not be shown: the secret, and those that are sent in its place."""
        yield self.secret
        yield from (value.rpartition(" ")[2].rstrip("=") for value in self.headers.values())
        yield from (value for name, value in self.query.items() if name not in _PUBLIC)


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Redirects are ours to follow; requests would prepare the next request even where it is told not to."""


class HttpClient:
    """One server's client, for use by several threads. Use as a context manager.

    Args:
        base_url: of the server the token is for.
        config: gives concurrency, timeout and retries.
        stop: set to end waits and downloads early.

    Raises:
        SourceError: on construction, for a malformed URL.
    """

    def __init__(self, base_url: str, config: IngestConfig, stop: threading.Event) -> None:
        try:
            self.address = _shown(base_url).rstrip("/")  # for messages
        except ValueError as error:
            raise SourceError(f"the URL {base_url} cannot be used: {error}") from None
        self._base_url = base_url.rstrip("/")
        self.credentials = Credentials()
        self._home = urlsplit(base_url)
        self._config = config
        self._stop = stop
        self._retries = Retries(config, stop)
        self._sent = Sent()
        self.ahead_s: float | None = None  # by which the server's clock was ahead of ours, to a second; None: not known
        self._session = _Session()
        adapter = DeadlineAdapter(pool_connections=4, pool_maxsize=config.concurrency)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        # Audio does not compress, and a compressed answer cannot be continued.
        self._session.headers.update({"User-Agent": "student-clap", "Accept-Encoding": "identity"})
        # Without an auth of its own, requests would put a ~/.netrc entry in the place of our header.
        self._session.auth = _leave_as_it_is

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()
        self._sent.forget()

    def get_json(
        self,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        credentials: Credentials | None = None,
    ) -> Any:
        """GET a JSON document.

        Args:
            path: below the base URL; it is what messages show.
            query: never shown, so it may hold what the server asks for.
            headers: in addition to those of the credentials.
            credentials: in place of the client's own.

        Raises:
            FetchError: a permanent one where the answer is not JSON.
        """
        return self._json("GET", path, None, query, headers, credentials)

    def post_json(self, path: str, body: Any, *, credentials: Credentials | None = None) -> Any:
        """POST `body` as JSON and return the JSON answer. For requests that may be repeated. Raises as `get_json`."""
        return self._json("POST", path, body, None, None, credentials)

    def _json(
        self,
        method: str,
        path: str,
        content: Any,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        credentials: Credentials | None,
    ) -> Any:
        def once() -> Any:
            with self.open(
                path, method=method, query=query, headers=headers, content=content, credentials=credentials
            ) as response:
                return _as_json(self.body(response))

        with nothing_unforeseen():
            return self._retries.run(path, once)

    def retry(self, what: str, once: Callable[[], T]) -> T:
        """Call `once`, one attempt at something, until it succeeds; see `Retries.run`, whose errors it raises."""
        return self._retries.run(what, once)

    def body(self, response: requests.Response, begin: int = 0) -> Body:
        """The body of `response`, of whose file `begin` bytes came before."""
        return Body(response, stop=self._stop, timeout_s=self._config.timeout_s, begin=begin)

    @contextmanager
    def open(
        self,
        path: str,
        *,
        method: str = "GET",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: Any = None,
        credentials: Credentials | None = None,
        accepted: frozenset[int] = frozenset({200}),
    ) -> Iterator[requests.Response]:
        """One attempt at a request.

        Args:
            path: below the base URL.
            method: GET or POST.
            query: in addition to that of the credentials.
            headers: in addition to those of the credentials; sent to whatever host the server redirects to.
            content: sent as JSON.
            credentials: in place of the client's own.
            accepted: statuses that are not errors.

        Yields:
            The answer with its body unread. Redirects were followed, and the credentials sent to the home server only.

        Raises:
            RetryError: there was no such answer, but another attempt may bring one.
            FetchError: there was no such answer, and another attempt would not bring one.
        """
        proof = credentials or self.credentials
        self._sent.hide(proof.secrets())
        url = _with_query(self._base_url + path, query)
        for _ in range(_MAX_REDIRECTS + 1):
            at_home = self.is_home(url)
            sent = {**(headers or {}), **(proof.headers if at_home else {})}
            response = self._send(method, _with_query(url, proof.query) if at_home else url, sent, content)
            try:
                logger.debug("%s %s -> %d", method, _shown(url), response.status_code)
                if at_home:
                    self.ahead_s = _ahead_s(response.headers.get("Date", ""))
                if not response.is_redirect:
                    if not at_home and response.status_code in (401, 403):
                        raise self._led_away(url)
                    if response.status_code not in accepted:
                        raise _failure(response)
                    yield response
                    return
                url = _joined(url, response.headers["Location"])
                if not self.is_home(url):
                    # A server that moved hands our whole query on, and the credentials with it.
                    url = _without(url, proof.query)
                if content is not None and not self.is_home(url):
                    raise self._led_away(url)
            finally:
                response.close()
        raise FetchError(f"more than {_MAX_REDIRECTS} redirects", permanent=True, kind="unusable answer")

    def _led_away(self, url: str) -> FetchError:
        return FetchError(
            f"the server redirects to {_shown(url)}, where the token is not sent;"
            " set the URL to that server's if it is yours",
            permanent=True,
            kind="refused",
        )

    def _send(self, method: str, url: str, headers: Mapping[str, str], content: Any) -> requests.Response:
        timeout_s = self._config.timeout_s
        try:
            return self._session.request(
                method,
                url,
                headers=headers,
                json=content,
                timeout=(timeout_s, timeout_s),
                stream=True,
                allow_redirects=False,
            )
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:  # requests' own are OSErrors
            failure = _unsent(error, url, timeout_s)
        # Not raised within: the libraries' errors carry the whole URL, and would stand behind ours.
        raise failure

    def is_home(self, address: str) -> bool:
        """Whether the token may go there: the same origin, or the same host's step from http to https."""
        home, url = self._home, urlsplit(address)
        if url.hostname != home.hostname:
            return False
        ports = (_port(home), _port(url))
        return (home.scheme == url.scheme and ports[0] == ports[1]) or (
            (home.scheme, url.scheme) == ("http", "https") and ports == (80, 443)
        )


def _with_query(url: str, query: Mapping[str, str] | None) -> str:
    there = urlsplit(url).query
    # A server that redirects to itself hands our query back.
    names = {name for name, _ in parse_qsl(there, keep_blank_values=True)}
    added = {name: value for name, value in (query or {}).items() if name not in names}
    return f"{url}{'&' if there else '?'}{urlencode(added)}" if added else url


def _without(url: str, names: Iterable[str]) -> str:
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    kept = [(name, value) for name, value in query if name not in names]
    return url if len(kept) == len(query) else parts._replace(query=urlencode(kept)).geturl()


def _joined(url: str, location: str) -> str:
    try:
        joined = urljoin(url, location)
        urlsplit(joined).port  # noqa: B018  raises where it is not a port
    except ValueError:
        raise FetchError(
            "the server redirects to something that is not an address", permanent=True, kind="unusable answer"
        ) from None
    return joined


def _leave_as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _as_json(body: Body) -> Any:
    parts, n_bytes = [], 0
    for block in body.blocks():
        parts.append(block)
        n_bytes += len(block)
        if n_bytes > MAX_JSON_BYTES:
            raise FetchError(
                f"the answer is larger than {readable_bytes(MAX_JSON_BYTES)}", permanent=True, kind="unusable answer"
            )
    try:
        return parse_json(b"".join(parts))
    except ValueError:
        raise FetchError("the answer is not JSON", permanent=True, kind="unusable answer") from None


def _unsent(error: Exception, url: str, timeout_s: float) -> Exception:
    """The error that a request without an answer stands for."""
    if isinstance(error, requests.exceptions.SSLError):
        reason = f"no secure connection ({_innermost(error)}); for a certificate of your own set REQUESTS_CA_BUNDLE"
        return FetchError(reason, permanent=True, kind="no connection")
    if isinstance(error, requests.exceptions.Timeout):
        return RetryError(f"no answer within {timeout_s:g} s", kind="timeout")
    if isinstance(error, requests.exceptions.ConnectionError):
        return RetryError(f"no connection: {_innermost(error)}", kind="no connection")
    if "certificate" in str(error) and not isinstance(error, requests.RequestException):
        # A path that is not there: requests looks before it connects.
        reason = "the certificates that REQUESTS_CA_BUNDLE (or CURL_CA_BUNDLE) names are not there; correct its path"
        return FetchError(reason, permanent=True, kind="no connection")
    if isinstance(error, requests.exceptions.InvalidHeader | UnicodeEncodeError):
        reason = (
            "a header holds what none may hold, such as a line break (is the token in the settings copied whole?), or"
            " the server's headers contradict each other"
        )
    else:
        reason = f"the address {_shown(url)} cannot be used: {type(error).__name__}"
    return FetchError(reason, permanent=True, kind="unusable answer")


def _failure(response: requests.Response) -> Exception:
    status = response.status_code
    reason = f"the server answers {status} {one_line(masked(response.reason or ''), _REASON_CHARACTERS)}".rstrip()
    if status in _RETRIED or status >= 500:
        return RetryError(
            reason,
            kind="server busy" if status in _RETRIED else "server error",
            retry_after_s=retry_after_s(response.headers.get("Retry-After", "")),
        )
    return FetchError(reason, permanent=True, status=status)


def _ahead_s(date: str) -> float | None:
    """By how much the clock that wrote the header `Date` (RFC 9110, 6.6.1) is ahead of ours; None where it is none."""
    try:
        then = parsedate_to_datetime(date)
    except (ValueError, OverflowError):  # a year that no calendar has
        return None
    return (then - datetime.now(UTC)).total_seconds() if then.tzinfo is not None else None


def _port(url: SplitResult) -> int | None:
    return url.port or {"http": 80, "https": 443}.get(url.scheme)


def _innermost(error: BaseException) -> str:
    """The operating system's own words, without the address that the libraries above add."""
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
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return masked(f"{parts.scheme}://{host}:{_port(parts)}{parts.path}")
