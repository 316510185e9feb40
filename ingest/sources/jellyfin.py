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
from student_clap.ingest.sources.texts import main_artist

_USER_ID = re.compile(r"[0-9A-Fa-f]{8}(-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}")
_IN_A_PATH = re.compile(r"[A-Za-z0-9-]{1,64}")


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
        return [Credentials(headers, secret=token) for headers in self.header_styles(token)]

    @staticmethod
    def header_styles(token: str) -> list[dict[str, str]]:
        """Ways to present the token, the preferred first."""
        return [{"Authorization": f'MediaBrowser Token="{token}"'}, {"X-Emby-Token": token}]

    def greet(self, credentials: Credentials) -> str | None:
        """Ask for the system's information, which names the version."""
        try:
            info: Any = self._client.get_json("/System/Info", credentials=credentials)
        except FetchError as error:
            if error.status != 403:
                raise
            return self._greet_user(credentials, error.reason)
        return f"{self.product} {said(info['Version'])}" if isinstance(info, dict) and "Version" in info else None

    def _greet_user(self, credentials: Credentials, reason: str) -> str:
        """The system's information is for administrators; a proxy that refuses everybody says the same as the server.

        So a page is asked for that every user may see.
        """
        path, query = self.items(self._user_id(credentials))
        try:
            items = entries(self._client.get_json(path, query=query | {"Limit": "1"}, credentials=credentials), "Items")
        except FetchError as error:
            if error.status == 403:
                raise self.refusal(f"{reason}, and the same for its list of items") from None
            raise
        if items is None:
            raise self.unlike("the list of items")
        return self.product

    def addresses(self, track_id: str) -> Sequence[Address]:
        """The download, and the stream of the same bytes."""
        return (Address(f"/Items/{track_id}/Download"), Address(f"/Audio/{track_id}/stream", {"static": "true"}))

    def lists(self) -> Iterator[Ask]:
        """One list of everything that the user, or without one the key, may see."""
        path, query = self.items(self._user_id())

        def ask(start: int) -> Page:
            paging = {"StartIndex": str(start), "Limit": str(PAGE_TRACKS), "SortBy": "SortName"}
            kind = {"IncludeItemTypes": "Audio", "Recursive": "true", "Fields": "Path"}
            document = self._client.get_json(path, query=query | kind | paging)
            items = entries(document, "Items")
            if items is None:
                raise self.unlike("the list of items")
            tracks = [_listed(item) for item in items if text(item.get("Id"))]
            return Page(tracks, len(items), number(document.get("TotalRecordCount")), len(items) >= PAGE_TRACKS)

        yield ask

    def _user_id(self, credentials: Credentials | None = None) -> str:
        """The id of the configured user, who may be given by name; empty where none is configured."""
        given = self._settings.user_id
        if not given or _USER_ID.fullmatch(given):
            return given
        unfit = f"{self.section}.user_id {given!r} is not an id of {self.product}'s"
        remedy = "set the id, which stands in the address of the user's page in the dashboard"
        try:
            users = self._client.get_json("/Users", credentials=credentials)
        except FetchError as error:
            if error.status == 401:
                raise
            raise SourceError(f"{unfit}, and its users cannot be listed ({error.reason}); {remedy}") from None
        known = [user for user in users if isinstance(user, dict)] if isinstance(users, list) else []
        for key in ("Id", "Name"):
            for user in known:
                user_id = text(user.get("Id"))
                if text(user.get(key)).casefold() == given.casefold() and _IN_A_PATH.fullmatch(user_id):
                    return user_id
        names = ", ".join(said(user.get("Name")) for user in known[:10]) or "none"
        raise SourceError(f"{unfit}, and not the name of a user either (its users: {names}); {remedy}")

    @staticmethod
    def items(user_id: str) -> tuple[str, dict[str, str]]:
        """Path and query of the list of items."""
        return "/Items", {"userId": user_id} if user_id else {}


def _listed(item: dict[str, Any]) -> ListedTrack:
    artists = item.get("Artists")
    artist = text(artists[0]) if isinstance(artists, list) and artists else ""
    return ListedTrack(
        text(item.get("Id")),
        text(item.get("Path")),
        text(item.get("Name")),
        main_artist(text(item.get("AlbumArtist")), artist),
        text(item.get("Album")),
    )


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
