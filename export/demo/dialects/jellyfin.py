"""Jellyfin, and Emby below `/emby`. Source: docs/audiomuse.md."""

from __future__ import annotations

import re
from typing import Any

from student_clap.export.demo.dialects.base import (
    NOT_FOUND,
    USER_ID,
    Audio,
    Library,
    Reply,
    Request,
    described,
    json_reply,
    page,
    path_of,
)

_AUDIO = re.compile(r"/Items/([^/]+)/Download|/Audio/([^/]+)/stream")
_ITEM = re.compile(r"(?:/Users/[^/]+)?/Items/([^/]+)")
_TOKEN = re.compile(r'MediaBrowser .*Token="([^"]*)".*')
_TICKS_PER_S = 10_000_000


class JellyfinDialect:
    """Jellyfin.

    Args:
        headers: where the token is accepted: "authorization", "x-emby-token". Jellyfin 12 has the first alone,
            Jellyfin before 10.8 in effect the second.
    """

    kind = "jellyfin"
    checked = "/System/Info"
    listed = "/Items"
    secret_headers = frozenset({"authorization", "x-emby-token"})
    secret_parameters: frozenset[str] = frozenset()
    prefix = ""
    product, version = "Jellyfin Server", "10.11.0"

    def __init__(self, headers: frozenset[str] = frozenset({"authorization", "x-emby-token"})) -> None:
        self.headers = headers

    def section(self, library: Library, url: str) -> dict[str, Any]:
        return {"url": url, "user_id": library.user_id, "token": library.token}

    def track_id(self, number: int) -> str:
        return f"{number:032x}"

    def track_of(self, request: Request) -> str | None:
        match = _AUDIO.fullmatch(request.path.removeprefix(self.prefix))
        return (match[1] or match[2]) if match else None

    def answer(self, request: Request, library: Library) -> Reply | Audio:
        if not request.path.startswith(f"{self.prefix}/") or request.method != "GET":
            return NOT_FOUND
        if not self._token_ok(request, library.token):
            return Reply(401)
        path = request.path.removeprefix(self.prefix)
        track_id = self.track_of(request)
        if track_id is not None:
            return Audio(track_id, path) if track_id in library.files else NOT_FOUND
        return self._described(path, request.parameters(), library)

    def _token_ok(self, request: Request, token: str) -> bool:
        found = _TOKEN.fullmatch(request.headers.get("authorization", ""))
        return ("authorization" in self.headers and found is not None and found[1] == token) or (
            "x-emby-token" in self.headers and request.headers.get("x-emby-token") == token
        )

    def _described(self, path: str, query: dict[str, str], library: Library) -> Reply:
        user = {"Name": library.user, "Id": library.user_id}
        if path == "/System/Info":
            return json_reply(
                {"ServerName": "loopback", "ProductName": self.product, "Version": self.version, "Id": "loopback"}
            )
        if path == "/Users":
            return json_reply([user])
        if path == f"/Users/{library.user_id}":
            return json_reply(user)
        if path in ("/Items", f"/Users/{library.user_id}/Items"):
            return self._list(query, library)
        if (match := _ITEM.fullmatch(path)) and match[1] in library.files:
            return json_reply(self._item(library, match[1], {"Path"}))
        return NOT_FOUND

    def _list(self, query: dict[str, str], library: Library) -> Reply:
        if query.get("IncludeItemTypes") != "Audio" or query.get("Recursive", "").lower() != "true":
            # What is asked for is the top level: the libraries themselves.
            items = [{"Id": "lib", "Name": "Music", "Type": "CollectionFolder", "CollectionType": "music"}]
            return json_reply({"Items": items, "TotalRecordCount": 1, "StartIndex": 0})
        begin = int(query.get("StartIndex", 0))
        length = int(query.get("Limit", len(library.files)))
        fields = set(query.get("Fields", "").split(","))
        tracks = [self._item(library, i, fields) for i in page(library, begin, length)]
        return json_reply({"Items": tracks, "TotalRecordCount": len(library.files), "StartIndex": begin})

    def _item(self, library: Library, track_id: str, fields: set[str]) -> dict[str, Any]:
        title, artist, album = described(library, track_id)
        path = path_of(library, track_id)
        item = {
            "Id": track_id,
            "Name": title,
            "Type": "Audio",
            "Container": path.rpartition(".")[2],
            "Album": album,
            "AlbumArtist": artist,
            "Artists": [artist],
            "ArtistItems": [{"Name": artist, "Id": "a"}],
            "RunTimeTicks": 10 * _TICKS_PER_S,
        }
        return item | ({"Path": path} if "Path" in fields else {})


class EmbyDialect(JellyfinDialect):
    """Emby."""

    kind = "emby"
    checked = "/emby/System/Info"
    listed = f"/emby/Users/{USER_ID}/Items"
    prefix = "/emby"
    product, version = "Emby Server", "4.9.0.0"

    def __init__(self) -> None:
        super().__init__(frozenset({"x-emby-token"}))

    def track_id(self, number: int) -> str:
        return str(100_000 + number)


DIALECTS = (JellyfinDialect, EmbyDialect)
