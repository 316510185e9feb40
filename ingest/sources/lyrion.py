"""Audio from a Lyrion Music Server (Logitech Media Server).

`/music/{id}/download` gives the original file; everything else is JSON-RPC. Tracks of online services stand in the
library like files, and cannot be handed out: the server is asked for each track where it lies before its download.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from student_clap.config.servers import LyrionConfig
from student_clap.ingest.http.client import Credentials
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.sources.base import ListedTrack
from student_clap.ingest.sources.server import (
    PAGE_TRACKS,
    Address,
    Ask,
    Page,
    RemoteServer,
    entries,
    number,
    said,
    text,
)

_ONLINE = {
    "spotify": "Spotify", "qobuz": "Qobuz", "tidal": "Tidal", "wimp": "Tidal", "youtube": "YouTube", "deezer": "Deezer",
}  # fmt: skip


class LyrionSource(RemoteServer[LyrionConfig]):
    """A Lyrion server. Use as a context manager."""

    section = "lyrion"
    product = "Lyrion"
    example_url = "http://192.168.1.10:9000"
    credential = "user and password"
    track_ids = re.compile(r"-?[0-9]{1,20}")

    @property
    def remedy(self) -> str:
        """Lyrion's own security settings decide who is let in."""
        return "set lyrion.user and lyrion.password as in the server's security settings"

    def credentials(self) -> Sequence[Credentials]:
        """Basic authentication, where a user is set."""
        user, password = self._settings.user, self._settings.password
        if not user and password is None:
            return [Credentials()]
        if not user or password is None or ":" in user:
            raise SourceError(
                "of lyrion.user and lyrion.password one is not set, or the user has a colon; set both, or none where"
                " the server asks for none"
            )
        pair = base64.b64encode(f"{user}:{password.get_secret_value()}".encode()).decode()
        return [Credentials({"Authorization": f"Basic {pair}"}, secret=password.get_secret_value())]

    def greet(self, credentials: Credentials) -> str | None:
        """Ask for the server's status, which names the version."""
        try:
            status = self._ask(["serverstatus", 0, 0], credentials)
        except FetchError as error:
            if error.status != 403:
                raise
            raise SourceError(
                f"Lyrion at {self._client.address} does not let this machine in (403); allow its address in the"
                " server's security settings"
            ) from None
        return f"Lyrion {said(status['version'])}" if "version" in status else None

    def addresses(self, track_id: str) -> Sequence[Address]:
        """The original file; an extension behind it would transcode.

        The server is asked first where the track lies: the download of one of an online service does not answer in
        time, or fails in other ways that look as if they might pass.
        """
        answer = self._ask(["songinfo", 0, 100, f"track_id:{track_id}", "tags:u"])
        details = entries(answer, "songinfo_loop", optional=True) or []
        url = next((text(d["url"]) for d in details if "url" in d), "")
        service = online_service(url)
        if service:
            reason = f"it is a track of {service}, which Lyrion plays but does not hand out; only files can be fetched"
            raise FetchError(reason, permanent=True, kind="of an online service")
        return (Address(f"/music/{track_id}/download"),)

    def lists(self) -> Iterator[Ask]:
        """One list of all titles."""

        def ask(start: int) -> Page:
            answer = self._ask(["titles", start, PAGE_TRACKS, "tags:ual"])
            titles = entries(answer, "titles_loop", optional=True)
            if titles is None or "count" not in answer:
                raise self.unlike("the list of titles")
            tracks = [
                ListedTrack(
                    text(t.get("id")),
                    file_path(text(t.get("url"))),
                    *(text(t.get(name)) for name in ("title", "artist", "album")),
                )
                for t in titles
                if text(t.get("id"))
            ]
            return Page(tracks, len(titles), number(answer.get("count")), len(titles) >= PAGE_TRACKS)

        yield ask

    def _ask(self, command: list[str | int], credentials: Credentials | None = None) -> dict[str, Any]:
        """The result of a command that concerns no player."""
        body = {"id": 1, "method": "slim.request", "params": ["", command]}
        document = self._client.post_json("/jsonrpc.js", body, credentials=credentials)
        result = document.get("result") if isinstance(document, dict) else None
        if not isinstance(result, dict):
            raise self.unlike("the answer")
        return result


def file_path(url: str) -> str:
    """The path of a `file:` URL; empty for everything that is not a whole file of the server.

    A piece of a file, as a cue sheet makes it, has its times behind a `#`.

    >>> file_path("file:///music/AC%23DC/a%20b.flac"), file_path("file:///C:/Music/a.flac"), file_path("qobuz://1.flac")
    ('/music/AC#DC/a b.flac', 'C:/Music/a.flac', '')
    >>> file_path("file:///music/album.flac#0-215.3"), file_path("file://nas/music/a.flac")
    ('', '//nas/music/a.flac')
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if parts.scheme != "file" or parts.fragment or parts.query:
        return ""
    path = unquote(parts.path)
    if parts.netloc and parts.netloc.lower() != "localhost":
        return f"//{parts.netloc}{path}"
    return path[1:] if re.match(r"/[A-Za-z]:", path) else path


def online_service(url: str) -> str:
    """The service that `url` leads to, empty for files.

    >>> online_service("spotify:track:4uLU6hMC"), online_service("file:///music/spotify/a.flac")
    ('Spotify', '')
    """
    if not url or url.startswith("file:"):
        return ""
    known = next((name for word, name in _ONLINE.items() if word in url.lower()), "")
    return known or "an online service"


SOURCES = {"lyrion": LyrionSource}
