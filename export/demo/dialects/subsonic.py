"""Navidrome and other OpenSubsonic servers. Source: docs/audiomuse.md and opensubsonic.netlify.app.

Every error is HTTP 200 with a document that says `failed`, on the endpoints for audio too, in the format of `f`
(XML where it is not given). `stream` without `format=raw` is transcoded, as a player's settings may ask for.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any
from xml.sax.saxutils import quoteattr

from student_clap.export.demo.dialects.base import Audio, Library, Reply, Request, described, json_reply, page, path_of

_MESSAGES = {
    0: "A generic error.",
    10: "Required parameter is missing.",
    40: "Wrong username or password.",
    41: "Token authentication not supported for LDAP users.",
    42: "Provided authentication mechanism not supported.",
    43: "Multiple conflicting authentication mechanisms provided.",
    44: "Invalid API key.",
    50: "User is not authorized for the given operation.",
    70: "The requested data was not found.",
}
_ENDPOINT = re.compile(r"/rest/(\w+)(?:\.view)?")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VERSION = {"version": "1.16.1", "type": "navidrome", "serverVersion": "0.58.0", "openSubsonic": True}
# Frames of silence, MPEG-1 layer III, 128 kbit/s, 44.1 kHz: what a transcoder makes of any track here.
_TRANSCODED = (b"\xff\xfb\x90\x00" + bytes(413)) * 20


class SubsonicDialect:
    """An OpenSubsonic server.

    Args:
        api_key: the secret is an API key, else the password of `user`.
        refuses: ways of authentication that this server does not have: "p", "t", "apiKey".
    """

    kind = "navidrome"
    checked = "/rest/ping.view"
    listed = "/rest/search3.view"
    secret_headers: frozenset[str] = frozenset()
    secret_parameters = frozenset({"p", "t", "apiKey"})

    def __init__(self, *, api_key: bool = False, refuses: frozenset[str] = frozenset()) -> None:
        self.api_key = api_key
        self.refuses = refuses

    def section(self, library: Library, url: str) -> dict[str, Any]:
        if self.api_key:
            return {"url": url, "api_key": library.token}
        return {"url": url, "user": library.user, "password": library.token}

    def track_id(self, number: int) -> str:
        digits = ""
        for _ in range(22):
            number, digit = divmod(number, 62)
            digits = _DIGITS[digit] + digits
        return digits

    def track_of(self, request: Request) -> str | None:
        name = _endpoint(request)
        return request.parameters().get("id", "") if name in ("download", "stream") else None

    def answer(self, request: Request, library: Library) -> Reply | Audio:
        name, query = _endpoint(request), request.parameters()
        if not name or request.method != "GET":
            return Reply(404, b"404 page not found\n")
        if name == "getOpenSubsonicExtensions":
            return _ok(query, "openSubsonicExtensions", [{"name": "apiKeyAuthentication", "versions": [1]}])
        if (code := self._refusal(query, library)) is not None:
            return failed(code, query.get("f", "xml"))
        track_id = query.get("id", "")
        if name in ("download", "stream", "getSong") and track_id not in library.files:
            return failed(70 if track_id else 10, query.get("f", "xml"))
        if name == "stream" and query.get("format") != "raw":
            return Reply(200, _TRANSCODED, "audio/mpeg")
        if name in ("download", "stream"):
            return Audio(track_id, f"/rest/{name}")
        return self._described(name, query, library)

    def _refusal(self, query: dict[str, str], library: Library) -> int | None:
        """The code of what is wrong with the secret; None if it is right."""
        if "v" not in query or "c" not in query:
            return 10
        ways = [way for way in ("p", "t", "apiKey") if way in query]
        if len(ways) > 1 or ("apiKey" in query and "u" in query):
            return 43
        if set(ways) & self.refuses:
            return 41 if ways == ["t"] else 42
        if ways == ["apiKey"]:
            return None if self.api_key and query["apiKey"] == library.token else 44
        if not ways or "u" not in query:
            return 10
        right = not self.api_key and query["u"] == library.user and _password_ok(query, library.token)
        return None if right else 40

    def _described(self, name: str, query: dict[str, str], library: Library) -> Reply:
        if name == "ping":
            return _ok(query)
        if name == "getMusicFolders":
            return _ok(query, "musicFolders", {"musicFolder": [{"id": 1, "name": "Music"}]})
        if name == "getSong":
            return _ok(query, "song", _song(library, query["id"]))
        if name == "search3":
            length = min(int(query.get("songCount", 20)), 500)
            ids = page(library, int(query.get("songOffset", 0)), length) if query.get("query") in ("", '""') else []
            return _ok(query, "searchResult3", {"song": [_song(library, i) for i in ids]} if ids else {})
        if name == "getAlbumList2":
            some = bool(library.files) and int(query.get("offset", 0)) == 0
            return _ok(query, "albumList2", {"album": [{"id": "al-1", "name": "Everything"}]} if some else {})
        if name == "getAlbum" and query.get("id") == "al-1":
            return _ok(query, "album", {"id": "al-1", "song": [_song(library, i) for i in library.files]})
        return failed(0, query.get("f", "xml"))


def failed(code: int, form: str = "json") -> Reply:
    """An error as these servers send it."""
    message = _MESSAGES.get(code, "an error")
    if form == "json":
        content = {"status": "failed", **_VERSION, "error": {"code": code, "message": message}}
        return json_reply({"subsonic-response": content})
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<subsonic-response xmlns="http://subsonic.org/restapi" status="failed"'
        f' version="1.16.1"><error code="{code}" message={quoteattr(message)}></error></subsonic-response>'
    )
    return Reply(200, body.encode(), "application/xml")


def _ok(query: dict[str, str], name: str = "", content: Any = None) -> Reply:
    if query.get("f") != "json":
        return Reply(200, b'<subsonic-response status="ok" version="1.16.1"/>', "application/xml")
    return json_reply({"subsonic-response": {"status": "ok", **_VERSION} | ({name: content} if name else {})})


def _endpoint(request: Request) -> str:
    match = _ENDPOINT.fullmatch(request.path)
    return match[1] if match else ""


def _password_ok(query: dict[str, str], password: str) -> bool:
    if "t" in query:
        right = hashlib.md5((password + query.get("s", "")).encode()).hexdigest()  # noqa: S324 - the protocol's
        return len(query.get("s", "")) >= 6 and query["t"].lower() == right
    given = query["p"]
    if given.startswith("enc:"):
        try:
            given = bytes.fromhex(given.removeprefix("enc:")).decode()
        except ValueError:
            return False
    return given == password


def _song(library: Library, track_id: str) -> dict[str, Any]:
    title, artist, album = described(library, track_id)
    path = path_of(library, track_id)
    return {
        "id": track_id,
        "parent": "al-1",
        "isDir": False,
        "title": title,
        "album": album,
        "artist": artist,
        "suffix": path.rpartition(".")[2],
        "contentType": "audio/flac",
        "duration": 10,
        "path": path,
        "type": "music",
    }


DIALECTS = (SubsonicDialect,)
