"""Lyrion Music Server (Logitech Media Server, SlimServer). Source: docs/audiomuse.md; lyrion.org, CLI."""

from __future__ import annotations

import base64
import json
import re
from typing import Any
from urllib.parse import quote

from student_clap.export.demo.dialects.base import (
    NOT_FOUND,
    Audio,
    Library,
    Reply,
    Request,
    described,
    json_reply,
    page,
    path_of,
)

_AUDIO = re.compile(r"/music/([^/]+)/download(?:\.\w+)?")
_URL = re.compile(r"[a-z]+:")  # what has a scheme already, such as spotify:


class LyrionDialect:
    """A Lyrion server.

    Args:
        protected: it asks for user and password.
    """

    kind = "lyrion"
    checked = "/jsonrpc.js"
    listed = "/jsonrpc.js"
    secret_headers = frozenset({"authorization"})
    secret_parameters: frozenset[str] = frozenset()

    def __init__(self, *, protected: bool = True) -> None:
        self.protected = protected

    def section(self, library: Library, url: str) -> dict[str, Any]:
        return {"url": url} | ({"user": library.user, "password": library.token} if self.protected else {})

    def track_id(self, number: int) -> str:
        return str(1 + number)

    def track_of(self, request: Request) -> str | None:
        match = _AUDIO.fullmatch(request.path)
        return match[1] if match else None

    def answer(self, request: Request, library: Library) -> Reply | Audio:
        right = "Basic " + base64.b64encode(f"{library.user}:{library.token}".encode()).decode()
        if self.protected and request.headers.get("authorization") != right:
            body = b"<html><head><title>401 Unauthorized</title></head><body>401 Unauthorized</body></html>"
            return Reply(401, body, "text/html", {"WWW-Authenticate": 'Basic realm="Lyrion Music Server"'})
        track_id = self.track_of(request)
        if track_id is not None and request.method == "GET":
            return Audio(track_id, request.path) if track_id in library.files else NOT_FOUND
        if request.path != "/jsonrpc.js" or request.method != "POST":
            return NOT_FOUND
        try:
            call = json.loads(request.body)
            _player, command = call["params"]
        except (ValueError, KeyError, TypeError):
            return Reply(500, b"<html><body>500 Internal Server Error</body></html>", "text/html")
        # As the server does: what is unknown has an empty result.
        result = self._result([str(word) for word in command], library) if call.get("method") == "slim.request" else {}
        return json_reply(call | {"result": result})

    def _result(self, command: list[str], library: Library) -> dict[str, Any]:
        name, tagged = command[0], dict(w.split(":", 1) for w in command[1:] if ":" in w)
        if name == "version":
            return {"_version": "9.0.2"}
        if name == "serverstatus":
            return {"version": "9.0.2", "uuid": "loopback", "info total songs": len(library.files)}
        if name in ("titles", "songs", "tracks"):
            ids = page(library, int(command[1]), int(command[2]))
            tracks = [_track(library, i, tagged.get("tags", "gald")) for i in ids]
            return {"count": len(library.files)} | ({"titles_loop": tracks} if tracks else {})
        if name == "songinfo" and (track_id := tagged.get("track_id", "")) in library.files:
            fields = _track(library, track_id, tagged.get("tags", "galdu"))
            return {"songinfo_loop": [{k: v} for k, v in fields.items()]}
        return {}


def _track(library: Library, track_id: str, tags: str) -> dict[str, Any]:
    title, artist, album = described(library, track_id)
    path = path_of(library, track_id)
    address = path if _URL.match(path) else "file://" + quote(path)
    values: dict[str, tuple[str, Any]] = {
        "a": ("artist", artist),
        "l": ("album", album),
        "d": ("duration", 10.0),
        "u": ("url", address),
        "o": ("type", path.rpartition(".")[2]),
        "x": ("remote", 0 if address.startswith("file:") else 1),
    }
    numbered = int(track_id) if track_id.isdecimal() else track_id
    return {"id": numbered, "title": title} | dict(values[t] for t in tags if t in values)


DIALECTS = (LyrionDialect,)
