"""The part that the sources of all media servers share: credentials, refusals, lists in pages, JSON answers.

The module of a server says how its credentials travel, how the server is greeted, at which addresses a track's bytes
lie, and how tracks are listed; the rest is here. Guarantee: one track's fault is a FetchError, a fault of the server
or of its credentials is a SourceError with the remedy; a list gives every id once, or ends with the error that says
how far it came.
"""

from __future__ import annotations

import logging
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from student_clap.config.runtime.text import one_line
from student_clap.config.schema import IngestConfig
from student_clap.ingest.cache.download import download, probe
from student_clap.ingest.http.client import Credentials, HttpClient
from student_clap.ingest.http.errors import FetchError, SourceError, nothing_unforeseen
from student_clap.ingest.http.secrets import masked
from student_clap.ingest.sources.base import ListedTrack, Wanted
from student_clap.ingest.sources.texts import whole_characters

logger = logging.getLogger(__name__)

PAGE_TRACKS = 500  # asked for at a time; servers may give fewer
_PROBES = 8  # tracks of the list that are tried where everything fails
_NOTHING_MARKED = "no track was marked as failed; correct it and run ingest again"
_SAID_CHARACTERS = 120  # of a server's own words in a message


@dataclass(frozen=True)
class Address:
    """A place below the server's URL."""

    path: str
    query: dict[str, str] | None = None


@dataclass(frozen=True)
class Page:
    """The entries of a list that come with one answer."""

    tracks: list[ListedTrack]
    n_items: int  # entries of the server's answer, including those that are not tracks
    total: int | None = None  # entries of the whole list, where the server says
    full: bool = True  # as many entries as were asked for


T = TypeVar("T")
Ask = Callable[[int], Page]  # the page from that entry on


class ServerSettings(Protocol):
    """The common part of the servers' sections of the configuration."""

    @property
    def url(self) -> str: ...


SettingsT = TypeVar("SettingsT", bound=ServerSettings)


class RemoteServer(ABC, Generic[SettingsT]):
    """A media server that is reached over HTTP. Use as a context manager.

    Args:
        settings: the server's section of the configuration.
        config: gives concurrency, timeout and retries.
        stop: set to end waits and downloads early.

    Raises:
        SourceError: on construction, if a setting is missing or cannot be right.
    """

    section: ClassVar[str]  # of the configuration
    product: ClassVar[str]
    example_url: ClassVar[str]
    credential: str = "token"  # its name in messages
    track_ids: ClassVar[re.Pattern[str]] = re.compile(r"[A-Za-z0-9_-]{1,64}")  # that may stand in a URL's path

    def __init__(self, settings: SettingsT, config: IngestConfig, stop: threading.Event) -> None:
        self._settings = settings
        if not settings.url:
            raise SourceError(f"{self.section}.url is not set; expected such as {self.example_url}")
        self._credentials = self.credentials()
        self._client = HttpClient(self.base_url(settings.url), config, stop)
        self._client.credentials = self._credentials[0]
        self._checking = threading.Lock()
        self._download_refused = False  # 401, where another address gives the file
        self._gave_a_file = False
        self._came_short = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.__exit__()

    @property
    def address(self) -> str:
        """Where it is asked, for messages."""
        return self._client.address

    @property
    def clock_ahead_s(self) -> float | None:
        """By how much its clock was ahead of ours at its last answer; None where it has not said."""
        return self._client.ahead_s

    @property
    def listed_all(self) -> bool:
        """Whether the last `list_tracks`, which has ended, gave as many tracks as the server counts."""
        return not self._came_short

    # --- different for each server

    @staticmethod
    def base_url(url: str) -> str:
        """The URL that every path is appended to."""
        return url

    @abstractmethod
    def credentials(self) -> Sequence[Credentials]:
        """The ways to identify us, the preferred first. Raises SourceError where settings are missing."""

    @abstractmethod
    def greet(self, credentials: Credentials) -> str | None:
        """Ask the server for its name, in a way that needs the credentials.

        Returns:
            Its name for the log; None where the answer is not this product's.

        Raises:
            FetchError: with status 401 where these credentials are not taken, though others might be.
            SourceError: it is clear that no others would be.
        """

    @abstractmethod
    def addresses(self, track_id: str) -> Sequence[Address]:
        """The addresses of the track's original bytes; each is for users who may not read the one before."""

    @abstractmethod
    def lists(self) -> Iterator[Ask]:
        """The lists that together name every track."""

    @property
    @abstractmethod
    def remedy(self) -> str:
        """The advice for a user whose credentials are refused."""

    def explain(self, head: bytes) -> Exception | None:  # noqa: ARG002  of those that report errors with status 200
        """The error that stands where audio should be, if this server is known to send such."""
        return None

    def missing(self, track_id: str) -> FetchError:  # noqa: ARG002
        """Why the server does not know the track."""
        return FetchError("it is gone from the media server (404)", permanent=True, status=404)

    # --- the same for all servers

    def check(self) -> None:
        """Ask the server for its name, and keep the credentials that it accepts. Raises SourceError."""
        hint = f"check {self.section}.url, and a reverse proxy's path in it"
        refused = ""
        with self._checking:
            for credentials in self._credentials:
                try:
                    with nothing_unforeseen():
                        name = self.greet(credentials)
                except FetchError as error:
                    if error.status == 401:
                        refused = error.reason
                        continue
                    raise SourceError(
                        f"{self.product} at {self._client.address} cannot be used: {error.reason}; {hint}"
                    ) from None
                if name is None:
                    raise SourceError(f"{self._client.address} answers, but not as {self.product} does; {hint}")
                logger.info("%s at %s", name, self._client.address)
                self._client.credentials = credentials
                return
        raise self.refusal(refused)

    def fetch(self, wanted: Wanted) -> Path:
        """Download one track."""
        track_id = wanted.track_id
        if not self.track_ids.fullmatch(track_id):
            raise FetchError(
                f"the track id {track_id!r} is not one of {self.product}'s", permanent=True, kind="strange id"
            )
        try:
            path = self._try_addresses(
                track_id,
                lambda a: download(self._client, a.path, wanted.stem, query=a.query, explain=self.explain),
            )
        except FetchError as error:
            if error.status == 401:
                # The credentials, or this one track? If the credentials, that ends the run.
                self.check()
                raise FetchError(
                    f"the server refuses this track, though not the {self.credential} (401)", permanent=True, status=401
                ) from None
            if error.status == 404:
                raise self.missing(track_id) from None
            raise
        self._gave_a_file = True
        return path

    def check_audio(self, occasion: str) -> None:
        """Ask the server for its name, for its list, and for a few tracks that it lists itself.

        The beginning of their answers is enough from a server that gave a file in this run; another may answer
        everything with bytes that are no audio.
        """
        self.check()
        at = f"{self.product} at {self._client.address}"
        listed: list[ListedTrack] = []
        try:
            for page in self.list_tracks():
                usable = [t for t in page if self.track_ids.fullmatch(t.track_id)]
                listed = [t for t in usable if t.path] or usable
                break
        except SourceError as error:
            raise SourceError(f"{occasion}, and {error.message}; {_NOTHING_MARKED}") from None
        if not listed:
            raise SourceError(
                f"{occasion}, and {at} lists no track at all; is its library mounted and scanned, and does the account"
                f" see it? {_NOTHING_MARKED}"
            )
        # From the first to the last of them.
        last_number = len(listed) - 1
        for number in sorted({round(n * last_number / (_PROBES - 1)) for n in range(_PROBES)}):
            track = listed[number]
            try:
                self._try_addresses(track.track_id, self._probe)
            except FetchError as error:
                last = error
                logger.debug("track %s, which the server lists: %s", one_line(track.track_id), error.reason)
            else:
                return
        raise SourceError(
            f"{occasion}, and {at} gives none of the tracks that it lists itself ({last.reason}): is a proxy, a"
            f" firewall or a login page between, or may the account of {self.section} not download? {_NOTHING_MARKED}"
        )

    def list_tracks(self) -> Iterator[list[ListedTrack]]:
        """Every track of the server once, a page at a time. Raises SourceError where the list breaks off."""
        seen: set[str] = set()
        self._came_short = False
        try:
            for ask in self.lists():
                yield from self._walk(ask, seen)
        except FetchError as error:
            if error.status == 401:
                self.check()
            raise SourceError(
                f"the list of {self.product}'s tracks at {self._client.address} broke off after {len(seen)} tracks:"
                f" {error.reason}; run ingest again"
            ) from None

    def refusal(self, reason: str) -> SourceError:
        """The error of a server that does not take the credentials."""
        reason = reason.removeprefix("the server answers ").removeprefix("the server reports ")
        return SourceError(
            f"{self.product} at {self._client.address} refuses the {self.credential} ({reason}); {self.remedy}"
        )

    def unlike(self, what: str) -> FetchError:
        """The error of an answer that does not have the expected form."""
        return FetchError(f"{what} is not as {self.product} gives it", permanent=True, kind="unusable answer")

    def _probe(self, address: Address) -> None:
        probe(self._client, address.path, query=address.query, explain=self.explain, whole=not self._gave_a_file)

    def _try_addresses(self, track_id: str, ask: Callable[[Address], T]) -> T:
        """The result of `ask` for the first address that the account may read."""
        addresses, unauthorised = self.addresses(track_id), False
        if self._download_refused:  # to this account: it would cost each track two requests more
            addresses = [*addresses[1:], addresses[0]]
        for address in addresses:
            try:
                found = ask(address)
            except FetchError as error:
                if error.status == 401 and address is not addresses[-1]:
                    # Emby says so where only the right to download is lacking. Dead credentials end the run here.
                    self.check()
                    unauthorised = True
                elif error.status != 403:
                    raise
            else:
                self._download_refused = self._download_refused or unauthorised
                return found
        reason = "allows neither its download nor its stream" if len(addresses) > 1 else "does not allow its download"
        raise FetchError(f"the server {reason} (403)", permanent=True, status=403)

    def _walk(self, ask: Ask, seen: set[str]) -> Iterator[list[ListedTrack]]:
        """One list, to its empty page: what a server counts may be too little, 0 or the entries of one page."""
        start, before, total = 0, len(seen), 0
        while True:
            counted_all = 0 < total <= start
            try:
                with nothing_unforeseen():
                    page = ask(start)
            except FetchError as error:
                if counted_all and error.permanent and error.status not in (401, 403):
                    logger.debug("entry %d, behind the end: %s", start, error.reason)
                    break
                raise
            total = max(total, page.total or 0)
            # A dict, for a page may repeat itself too.
            fresh = list({t.track_id: t for t in page.tracks if t.track_id not in seen}.values())
            seen.update(t.track_id for t in fresh)
            if fresh:
                yield fresh
            start += page.n_items
            if not page.n_items:
                break
            if not fresh:
                if page.full and not 0 < total <= len(seen) - before:
                    raise SourceError(
                        f"the list of {self.product}'s tracks at {self._client.address} does not end: after"
                        f" {len(seen)} tracks it begins again; does a cache or a proxy ignore the query?"
                    )
                break
        n_listed = len(seen) - before
        if n_listed < total:
            self._came_short = True
            logger.warning(
                "%s counts %d tracks and listed %d; it may have changed meanwhile", self.product, total, n_listed
            )
        elif 0 < total < n_listed:
            logger.info("%s counts %d tracks and listed %d; all of them were taken", self.product, total, n_listed)


def header_token(token: str, key: str) -> str:
    """`token`, if it may stand in a header. Raises SourceError; never shows the token."""
    if not token.isprintable() or not token.isascii() or '"' in token or token != token.strip() or not token:
        raise SourceError(f"{key} has characters that no API key has; was it copied whole?")
    return token


# --- JSON values of servers' answers, which may be anything


def entries(value: Any, *keys: str, optional: bool = False) -> list[dict[str, Any]] | None:
    """The list of objects at `keys` of a JSON document; None where there is no list.

    Args:
        value: the document.
        keys: the way to the list.
        optional: the server leaves the last key out where the list is empty. The document must show by something else
            that it is the answer to the question, or an answer of another form would look like an empty library.

    >>> entries({"a": {"b": [{"id": 1}, 2]}}, "a", "b"), entries({"a": {}}, "a", "b"), entries({}, "b", optional=True)
    ([{'id': 1}], None, [])
    """
    for key in keys[:-1]:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, dict):
        return None
    found = value.get(keys[-1], [] if optional else None)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else None


def text(value: Any) -> str:
    """A JSON value that should be a text or a number, as text that can be stored; empty if it is neither."""
    return whole_characters(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def number(value: Any) -> int | None:
    """A JSON value that should be a count."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def said(value: Any) -> str:
    """A server's own words, fit for a message."""
    return one_line(masked(text(value)), _SAID_CHARACTERS)
