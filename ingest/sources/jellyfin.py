"""Audio from Jellyfin, and from Emby, which has the same endpoints below `/emby`.

`Authorization: MediaBrowser Token="..."` is what Jellyfin 10.8 to 12 accept (12 no longer takes `X-Emby-Token`); a
server that refuses it is asked once with `X-Emby-Token`, and the way that works is kept for the run. Emby has always
taken `X-Emby-Token`. `/Items/{id}/Download` gives the original file but needs the right to download; without it
`/Audio/{id}/stream?static=true` gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from student_clap.config.servers import MediaServerConfig
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
    header_token,
    number,
    said,
    text,
)

_USER_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


class JellyfinSource(RemoteServer[MediaServerConfig]):
    """A Jellyfin server. Use as a context manager."""

    section = "jellyfin"
    product = "Jellyfin"
    example_url = "http://192.168.1.10:8096"

    @property
    def remedy(self) -> str:
        """A key from the server's dashboard replaces one that was withdrawn."""
        return f"make an API key in its dashboard and set {self.section}.token ({self.section.upper()}_TOKEN in .env)"

    def credentials(self) -> Sequence[Credentials]:
        """The token in each of `header_styles`."""
        if self._settings.token is None:
            raise SourceError(f"{self.section}.token is not set; make an API key in the server's dashboard")
        token = header_token(self._settings.token.get_secret_value(), f"{self.section}.token")
        return [Credentials(headers) for headers in self.header_styles(token)]

    @staticmethod
    def header_styles(token: str) -> list[dict[str, str]]:
        """Ways to present the token, the preferred first."""
        return [{"Authorization": f'MediaBrowser Token="{token}"'}, {"X-Emby-Token": token}]

    def greet(self, credentials: Credentials) -> str | None:
        """Ask for the system's information, which names the version."""
        try:
            info: Any = self._client.get_json("/System/Info", credentials=credentials)
        except FetchError as error:
            if error.status == 403:
                return self.product  # the token is known; this page is for administrators
            raise
        return f"{self.product} {said(info['Version'])}" if isinstance(info, dict) and "Version" in info else None

    def addresses(self, track_id: str) -> Sequence[Address]:
        """The download, and the stream of the same bytes."""
        return (Address(f"/Items/{track_id}/Download"), Address(f"/Audio/{track_id}/stream", {"static": "true"}))

    def lists(self) -> Iterator[Ask]:
        """One list of everything that the user, or without one the key, may see."""
        user_id = self._settings.user_id
        if user_id and not _USER_ID.fullmatch(user_id):
            raise SourceError(
                f"{self.section}.user_id {user_id!r} is not one of {self.product}'s; it is the id in the address of the"
                " user's page in the dashboard, not the name"
            )
        path, query = self.items(user_id)

        def ask(start: int) -> Page:
            paging = {"StartIndex": str(start), "Limit": str(PAGE_TRACKS), "SortBy": "SortName"}
            kind = {"IncludeItemTypes": "Audio", "Recursive": "true", "Fields": "Path"}
            document = self._client.get_json(path, query=query | kind | paging)
            items = entries(document, "Items")
            if items is None:
                raise self.unlike("the list of items")
            tracks = [ListedTrack(text(i.get("Id")), text(i.get("Path"))) for i in items if text(i.get("Id"))]
            return Page(tracks, len(items), number(document.get("TotalRecordCount")), len(items) >= PAGE_TRACKS)

        yield ask

    @staticmethod
    def items(user_id: str) -> tuple[str, dict[str, str]]:
        """Path and query of the list of items."""
        return "/Items", {"userId": user_id} if user_id else {}


class EmbySource(JellyfinSource):
    """An Emby server. Use as a context manager."""

    section = "emby"
    product = "Emby"

    @staticmethod
    def base_url(url: str) -> str:
        """The URL with Emby's `/emby`, which many users write themselves.

        >>> EmbySource.base_url("http://nas:8096"), EmbySource.base_url("http://nas:8096/emby")
        ('http://nas:8096/emby', 'http://nas:8096/emby')
        """
        return url if url.lower().endswith("/emby") else f"{url}/emby"

    @staticmethod
    def header_styles(token: str) -> list[dict[str, str]]:
        """The one header that Emby takes."""
        return [{"X-Emby-Token": token}]

    @staticmethod
    def items(user_id: str) -> tuple[str, dict[str, str]]:
        """Path and query of the list of items; Emby has the user in the path."""
        return (f"/Users/{user_id}/Items" if user_id else "/Items"), {}


SOURCES = {"jellyfin": JellyfinSource, "emby": EmbySource}
