"""Audio from Navidrome and every other server that speaks OpenSubsonic.

`download` gives the original file; `stream?format=raw` gives the same bytes to those who may not download. The
credentials stand in the query: an API key, or the user with a salted hash of the password, or, for servers that cannot
check that (code 41, LDAP), with the password itself. Servers report errors in a document with HTTP status 200, also
where audio should be; it is read wherever it may come. Source: the OpenSubsonic specification (authentication, error
codes).
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from student_clap.config.formats.json_text import parse_json
from student_clap.config.schema import IngestConfig
from student_clap.config.servers import SubsonicConfig
from student_clap.ingest.http.body import whole_number
from student_clap.ingest.http.client import Credentials
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.sources.base import ListedTrack
from student_clap.ingest.sources.server import PAGE_TRACKS, Address, Ask, Page, RemoteServer, entries, said, text
from student_clap.ingest.sources.texts import main_artist

logger = logging.getLogger(__name__)

_CLIENT = {"c": "student-clap", "f": "json"}
_WITH_TOKEN = {"v": "1.16.1"}
_WITH_PASSWORD = {"v": "1.12.0"}  # the last version without tokens, which servers of any age take
_PAGE_ALBUMS = 20  # each is a request of its own
# Codes of the specification -> the HTTP status that means the same.
_STATUS = {40: 401, 41: 401, 42: 401, 43: 401, 44: 401, 50: 403, 70: 404}
_GENERIC, _MISSING_PARAMETER, _CLIENT_TOO_OLD, _SERVER_TOO_OLD, _WRONG, _TRIAL_OVER = 0, 10, 20, 30, 40, 60
_OTHER_WAY = frozenset({_MISSING_PARAMETER, _SERVER_TOO_OLD, 41, 42})  # codes of servers that know another way only
_XML_ERROR = re.compile(rb"<error\b[^<>]*>")


class SubsonicError(FetchError):
    """The error that the server reports in a document of its own."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        message = f" ({message})" if message else ""
        status = _STATUS.get(code, 0)
        super().__init__(
            f"the server reports error {code}{message}",
            permanent=status != 0 or code == _MISSING_PARAMETER,
            status=status,
            kind="" if status else "server error",
        )


class SubsonicSource(RemoteServer[SubsonicConfig]):
    """An OpenSubsonic server. Use as a context manager."""

    section = "navidrome"
    product = "the Subsonic server"
    example_url = "http://192.168.1.10:4533"
    track_ids = re.compile(r"[!-~]{1,255}")  # stands in the query, where everything is escaped

    def __init__(self, settings: SubsonicConfig, config: IngestConfig, stop: threading.Event) -> None:
        self.credential = "API key" if settings.api_key is not None else "user and password"
        super().__init__(settings, config, stop)

    @staticmethod
    def base_url(url: str) -> str:
        """The URL without `/rest`, which some write themselves."""
        return url.removesuffix("/rest")

    @property
    def remedy(self) -> str:
        """Few servers know API keys, and some cannot check hashed passwords."""
        if self._settings.api_key is not None:
            return "check navidrome.api_key, or set navidrome.user and navidrome.password: few servers know API keys"
        return (
            "check navidrome.user and navidrome.password; a server that cannot check hashed passwords may say so of"
            " right ones too: give it an API key, as navidrome.api_key or in the place of the password"
        )

    def credentials(self) -> Sequence[Credentials]:
        """The API key, or the password as a hash and, if need be, as it is."""
        user, password, api_key = self._settings.user, self._settings.password, self._settings.api_key
        if api_key is not None:
            # The specification forbids `u` next to it (code 43).
            return [
                Credentials(
                    query={"apiKey": api_key.get_secret_value(), **_WITH_TOKEN}, secret=api_key.get_secret_value()
                )
            ]
        if not user or password is None:
            raise SourceError(
                "navidrome.api_key is not set, and navidrome.user and navidrome.password are not both set; set the"
                " one or the other two"
            )
        plain, salt = password.get_secret_value(), secrets.token_hex(8)
        token = hashlib.md5((plain + salt).encode(), usedforsecurity=False).hexdigest()
        return [
            Credentials(query={"u": user, "t": token, "s": salt, **_WITH_TOKEN}, secret=plain),
            Credentials(query={"u": user, "p": f"enc:{plain.encode().hex()}", **_WITH_PASSWORD}, secret=plain),
        ]

    def greet(self, credentials: Credentials) -> str | None:
        """Send a ping, whose answer names the server and its version."""
        try:
            answer = self._ask("ping", {}, credentials)
        except SubsonicError as error:
            if error.code == _MISSING_PARAMETER and "p" in credentials.query:
                raise SourceError(
                    f"{self.product} at {self._client.address} does not see all that is sent ({error.reason}); it"
                    " redirects to another host, where the user and password are not sent, or a proxy drops the query:"
                    " set navidrome.url to the server itself"
                ) from None
            if error.code in _OTHER_WAY:
                logger.debug("ping: %s; another way to log in is tried", error.reason)
                raise FetchError(error.reason, permanent=True, status=401) from None
            if error.status == 401:
                raise self.refusal(error.reason) from None
            raise
        except FetchError as error:
            if error.status == 400:  # of servers that say code 10 with it
                raise FetchError(error.reason, permanent=True, status=401) from None
            raise
        return f"{said(answer.get('type')) or 'Subsonic'} {said(answer.get('serverVersion'))}".strip()

    def addresses(self, track_id: str) -> Sequence[Address]:
        """The download, and the stream of the same bytes; without `raw` a server's own settings may transcode."""
        query = {"id": track_id, "format": "raw"} | _CLIENT
        return Address("/rest/download.view", query), Address("/rest/stream.view", query)

    def explain(self, head: bytes) -> Exception | None:
        """The error document that came with status 200."""
        error = parse_error(head)
        if error is None:
            return None
        if error.status == 404:
            return FetchError("it is gone from the media server (code 70)", permanent=True, status=404)
        return self._of_the_server(error) or error

    def lists(self) -> Iterator[Ask]:
        """One list, of the first kind that this server answers."""
        for query in ("", '""'):
            if self._songs(query, 0).n_items:
                yield lambda start, query=query: self._songs(query, start)  # type: ignore[misc]
                return
        yield self._albums

    def _songs(self, query: str, start: int) -> Page:
        """Everything that a search for nothing finds. A server that refuses that, or does not say, finds nothing."""
        counts = {"artistCount": "0", "albumCount": "0", "songCount": str(PAGE_TRACKS), "songOffset": str(start)}
        try:
            answer = self._ask("search3", {"query": query} | counts)
        except SubsonicError as error:
            if start or error.code not in (_GENERIC, _MISSING_PARAMETER):
                raise
            return Page([], 0)
        songs = entries(answer, "searchResult3", "song", optional=True)
        if songs is None:
            if start:
                raise self.unlike("the list of songs")
            return Page([], 0)
        return Page(_listed(songs), len(songs), full=len(songs) >= PAGE_TRACKS)

    def _albums(self, start: int) -> Page:
        """The songs of _PAGE_ALBUMS albums, for servers whose search does not list everything."""
        query = {"type": "alphabeticalByName", "size": str(_PAGE_ALBUMS), "offset": str(start)}
        albums = entries(self._ask("getAlbumList2", query), "albumList2", "album", optional=True)
        if albums is None:
            raise self.unlike("the list of albums")
        tracks: list[ListedTrack] = []
        for album in albums:
            try:
                answer = self._ask("getAlbum", {"id": text(album.get("id"))})
            except SubsonicError as error:
                if error.status != 404:
                    raise
                continue  # gone since the list was made
            songs = entries(answer, "album", "song", optional=True)
            if songs is None:
                raise self.unlike("the list of an album's songs")
            tracks += _listed(songs)
        return Page(tracks, len(albums), full=len(albums) >= _PAGE_ALBUMS)

    def _ask(self, method: str, query: Mapping[str, str], credentials: Credentials | None = None) -> dict[str, Any]:
        """The content of an answer. Raises SubsonicError where it is an error."""
        document = self._client.get_json(f"/rest/{method}.view", query={**query, **_CLIENT}, credentials=credentials)
        answer = document.get("subsonic-response") if isinstance(document, dict) else None
        if not isinstance(answer, dict) or "status" not in answer:
            raise self.unlike("the answer")
        error = _error_of(answer)
        if error is not None:
            raise self._of_the_server(error) or error
        return answer

    def _of_the_server(self, error: SubsonicError) -> SourceError | None:
        """Errors that every track would meet."""
        at = f"{self.product} at {self._client.address}"
        if error.code == _TRIAL_OVER:
            return SourceError(f"{at} says that its trial period is over (code 60); nothing can be fetched from it")
        if error.code == _CLIENT_TOO_OLD:
            return SourceError(f"{at} speaks a version of Subsonic that is not supported: {error.reason}")
        return None


def parse_error(head: bytes) -> SubsonicError | None:
    """The error that a JSON or XML document reports; None where it reports none.

    >>> parse_error(b'<subsonic-response status="failed"><error code="70" message="not found"/></subsonic-response>')
    SubsonicError('the server reports error 70 (not found)')
    """
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] == b"{":
        try:
            document = parse_json(start)
        except ValueError:
            return None
        answer = document.get("subsonic-response")
        return _error_of(answer) if isinstance(answer, dict) else None
    found = _XML_ERROR.search(start) if b"<subsonic-response" in start[:1000] else None
    if found is None:
        return None
    # A pattern, not a parser: of a document from outside only two attributes are wanted.
    code = re.search(rb"""\scode=["'](\d{1,9})["']""", found[0])
    words = re.search(rb"""\smessage=(?:"([^"]*)"|'([^']*)')""", found[0])
    message = (words[1] or words[2] or b"").decode("utf-8", "replace") if words else ""
    return SubsonicError(int(code[1]) if code else _GENERIC, said(message))


def _error_of(answer: Mapping[str, Any]) -> SubsonicError | None:
    error = answer.get("error")
    if answer.get("status") != "failed" and error is None:
        return None
    error = error if isinstance(error, dict) else {}
    code = whole_number(text(error.get("code")))
    return SubsonicError(_GENERIC if code is None else code, said(error.get("message")))


def _listed(songs: list[dict[str, Any]]) -> list[ListedTrack]:
    return [
        ListedTrack(
            text(s.get("id")),
            text(s.get("path")),
            text(s.get("title")),
            main_artist(text(s.get("displayAlbumArtist")), text(s.get("artist"))),
            text(s.get("album")),
        )
        for s in songs
        if text(s.get("id"))
    ]


SOURCES = {"navidrome": SubsonicSource}
