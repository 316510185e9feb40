"""Plex Media Server. Source: docs/audiomuse.md.

It has two music libraries beside one of films; tracks lie in either. A track's audio has an address of its own, which
only its description tells. Without `Accept: application/json` everything is XML.
"""

from __future__ import annotations

import re
from typing import Any

from student_clap.export.demo.dialects.base import Audio, Library, Reply, Request, described, json_reply, path_of

_PART = re.compile(r"/library/parts/9([^/]+)/\d+/file\.\w+")
_ALL = re.compile(r"/library/sections/(\d+)/all")
_METADATA = re.compile(r"/library/metadata/([^/]+)")
_MUSIC = ("2", "5")  # keys of the sections
_TRACK = "10"  # Plex's number for this type


class PlexDialect:
    """A Plex server.

    Args:
        parts_in_lists: lists of tracks name their files; else only a track's own page does.
    """

    kind = "plex"
    checked = "/library/sections"
    listed = "/library/sections/2/all"
    secret_headers = frozenset({"x-plex-token"})
    secret_parameters = frozenset({"X-Plex-Token"})

    def __init__(self, *, parts_in_lists: bool = True) -> None:
        self.parts_in_lists = parts_in_lists

    def section(self, library: Library, url: str) -> dict[str, Any]:
        return {"url": url, "token": library.token}

    def track_id(self, number: int) -> str:
        return str(1000 + number)

    def track_of(self, request: Request) -> str | None:
        match = _PART.fullmatch(request.path)
        return match[1] if match else None

    def answer(self, request: Request, library: Library) -> Reply | Audio:
        query = request.parameters()
        if request.method != "GET":
            return _page(404, "Not Found")
        if request.path == "/identity":
            return _container(request, {"size": 0, "machineIdentifier": "loopback", "version": "1.41.3.9314"})
        if library.token not in (request.headers.get("x-plex-token"), query.get("X-Plex-Token")):
            return _page(401, "Unauthorized")
        track_id = self.track_of(request)
        if track_id is not None and track_id in library.files:
            return Audio(track_id, request.path)
        if request.path == "/":
            return _container(request, {"size": 0, "machineIdentifier": "loopback", "version": "1.41.3.9314"})
        if request.path == "/library/sections":
            sections = [{"key": "1", "type": "movie", "title": "Films"}]
            sections += [{"key": key, "type": "artist", "title": f"Music {key}"} for key in _MUSIC]
            return _container(request, {"size": len(sections), "Directory": sections})
        if (match := _ALL.fullmatch(request.path)) and match[1] in _MUSIC:
            return self._list(request, query, library, match[1])
        if (match := _METADATA.fullmatch(request.path)) and match[1] in library.files:
            return _container(request, {"size": 1, "Metadata": [_track(library, match[1], parts=True)]})
        return _page(404, "Not Found")

    def _list(self, request: Request, query: dict[str, str], library: Library, key: str) -> Reply:
        if query.get("type") != _TRACK:
            # What is asked for is the library's own type: artists.
            return _container(request, {"size": 1, "Metadata": [{"ratingKey": "7", "type": "artist", "title": "A"}]})
        ids = [t for i, t in enumerate(library.files) if _MUSIC[i % 2] == key]
        begin, length = (
            query.get(name, request.headers.get(name.lower(), ""))
            for name in ("X-Plex-Container-Start", "X-Plex-Container-Size")
        )
        first = int(begin or 0)
        shown = ids[first : first + int(length)] if length else ids[first:]
        content = {"size": len(shown), "Metadata": [_track(library, i, parts=self.parts_in_lists) for i in shown]}
        if length:
            content |= {"totalSize": len(ids), "offset": first}
        return _container(request, content)


def _container(request: Request, content: dict[str, Any]) -> Reply:
    if "application/json" not in request.headers.get("accept", ""):
        return Reply(200, b'<?xml version="1.0" encoding="UTF-8"?>\n<MediaContainer size="0"/>\n', "text/xml")
    if not content.get("Metadata", True):
        del content["Metadata"]  # an empty list is left out
    return json_reply({"MediaContainer": content})


def _page(status: int, text: str) -> Reply:
    body = f"<html><head><title>{text}</title></head><body><h1>{status} {text}</h1></body></html>"
    return Reply(status, body.encode(), "text/html")


def _track(library: Library, track_id: str, *, parts: bool) -> dict[str, Any]:
    title, artist, album = described(library, track_id)
    path = path_of(library, track_id)
    suffix = path.rpartition(".")[2]
    key = f"/library/parts/9{track_id}/1700000000/file.{suffix}"
    media = {"id": 1, "container": suffix, "Part": [{"id": 1, "key": key, "file": path, "container": suffix}]}
    track = {
        "ratingKey": track_id,
        "key": f"/library/metadata/{track_id}",
        "type": "track",
        "title": title,
        "grandparentTitle": artist,
        "parentTitle": album,
        "duration": 10_000,
    }
    return track | ({"Media": [media]} if parts else {})


DIALECTS = (PlexDialect,)
