"""AudioMuse-AI's HTTP interface on 127.0.0.1: `GET /api/sync` and `GET /api/servers`, over a list of tracks.

As the real one (docs/audiomuse.md): pages by offset over the rows by item id, `limit` at most 500, `ids`
and `server`, rows of other servers left out, `clap_embedding` missing where CLAP is off; `/api/servers` since v3, with
masked credentials. The list may be changed while it is read (`before_page`), which shifts the pages. Faults are used up
in order. Every request is kept in `log`, with its secrets.

Guarantee: it listens on this machine only and is stopped when the block ends.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from student_clap.export.demo.schema import LoopbackTrack, Server

_LOGIN = b"<!DOCTYPE html>\n<html><head><title>Login - AudioMuse-AI</title></head><body>Sign in</body></html>\n"
FaultKind = Literal["status", "truncated", "html", "json", "redirect"]


@dataclass(frozen=True)
class ApiRequest:
    """A request as it came in."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]  # lower-case names


@dataclass
class AudioMuseApi:
    """What it serves, and what happened. Use `running_audiomuse_api`."""

    tracks: list[LoopbackTrack]
    servers: Sequence[Server] = ()  # empty: before v3, which names none
    provider_type: str = "jellyfin"  # of the one server before v3
    token: str | None = "loopback-api-token-e8"  # None: runs without authentication
    clap_enabled: bool = True
    has_sync: bool = True  # False: before v2.1.3
    knows_ids: bool = True  # False: leaves `ids` unheeded
    max_limit: int = 500
    # Called with the number of the page that is about to be answered; may change `tracks`.
    before_page: Callable[[int], None] | None = None
    log: list[ApiRequest] = field(default_factory=list)
    faults: dict[str, deque[tuple[FaultKind, int, str]]] = field(default_factory=dict)
    url: str = ""

    def section(self) -> dict[str, Any]:
        """The section `audiomuse` of a config.yaml."""
        return {"url": self.url} | ({"token": self.token} if self.token is not None else {})

    def fault(self, where: str, kind: FaultKind, *, times: int = 1, status: int = 503, to: str = "") -> None:
        """Let the next requests go wrong for `where`: a path, or "page 3"."""
        self.faults.setdefault(where, deque()).extend([(kind, status, to)] * times)

    def pages(self) -> list[int]:
        """Pages asked for so far."""
        return [int(r.query["page"]) for r in self.log if r.path == "/api/sync" and "page" in r.query]

    def answer(self, request: ApiRequest) -> tuple[int, Any]:
        """Status and JSON document."""
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"error": "Unauthorized"}
        if request.path == "/api/servers" and self.servers:
            return 200, {"servers": [_public(s) for s in self.servers], "default_id": self._default()}
        if request.path == "/api/sync" and self.has_sync:
            return self.sync(request.query)
        return 404, {"error": "Not found"}

    def _default(self) -> str | None:
        return next((s.server_id for s in self.servers if s.is_default), None)

    def sync(self, query: dict[str, str]) -> tuple[int, Any]:
        server_id, kind = "", self.provider_type
        if self.servers:
            wanted = query.get("server") or self._default()
            server = next((s for s in self.servers if wanted in (s.server_id, s.name)), None)
            if server is None:
                return 400, {"error": "Invalid server selection."}
            server_id, kind = server.server_id, server.server_type
        page = int(query.get("page", "1"))
        if self.before_page is not None and "ids" not in query:
            self.before_page(page)
        rows = sorted((t for t in self.tracks if self._available(t, server_id)), key=self._item_id)
        total = len(rows)
        if "ids" in query and self.knows_ids:
            asked = set(query["ids"].split(",")[:500])
            rows = [t for t in rows if t.track_id in asked]
            total, begin, end = len(rows), 0, len(rows)
        else:
            limit = min(int(query.get("limit", "500")), self.max_limit)
            begin, end = (page - 1) * limit, page * limit
        has_more = end < total
        return 200, {
            "tracks": [self.payload(t, query) for t in rows[begin:end]],
            "total_tracks": total,
            "provider_type": kind,
            "has_more": has_more,
            "next_page": page + 1 if has_more else None,
        }

    def _item_id(self, track: LoopbackTrack) -> str:
        return track.item_id_b if self.servers else track.track_id

    def _available(self, track: LoopbackTrack, server_id: str) -> bool:
        if not self.servers:
            return True
        if track.legacy:
            return server_id == self._default()
        return track.mapped and track.server_id == server_id

    def payload(self, track: LoopbackTrack, query: dict[str, str]) -> dict[str, Any]:
        payload: dict[str, Any] = {
            "id": track.track_id,
            "title": track.title or None,
            "artist": track.artist or None,
            "album_artist": None,
            "album": track.album or None,
            "year": None,
            "tempo": 120.0,
            "mood_vector": "rock:0.554",
            "fp": "0123456789abcdef",
        }
        if query.get("include_embeddings", "true") != "false":
            payload["embedding"] = base64.b64encode(bytes(800)).decode()
            if self.clap_enabled:
                vector = track.vector
                payload["clap_embedding"] = base64.b64encode(vector).decode() if vector else None
        return payload


def _public(server: Server) -> dict[str, Any]:
    """As administrators see a server: some of its credentials are masked."""
    creds = json.loads(server.creds) | {"token": "__unchanged__"}
    return {
        "server_id": server.server_id,
        "name": server.name,
        "server_type": server.server_type,
        "is_default": server.is_default,
        "creds": creds,
    }


@contextmanager
def running_audiomuse_api(tracks: Sequence[LoopbackTrack], **options: Any) -> Iterator[AudioMuseApi]:
    """An `AudioMuseApi` for the length of the block."""
    api = AudioMuseApi(list(tracks), **options)
    http = _Server(("127.0.0.1", 0), api)
    api.url = f"http://127.0.0.1:{http.server_address[1]}"
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield api
    finally:
        http.shutdown()
        http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], api: AudioMuseApi) -> None:
        self.api = api
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Be quiet; `AudioMuseApi.log` has it."""

    def do_GET(self) -> None:
        """Answer one request."""
        api = self.server.api
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        request = ApiRequest(parts.path, query, {k.lower(): v for k, v in self.headers.items()})
        api.log.append(request)
        if parts.path == "/login":
            self._send(200, _LOGIN, "text/html")
            return
        for where in (parts.path, f"page {query.get('page')}"):
            if api.faults.get(where):
                self._fail(*api.faults[where].popleft(), request)
                return
        status, document = api.answer(request)
        self._send(status, json.dumps(document).encode())

    def _fail(self, kind: FaultKind, status: int, to: str, request: ApiRequest) -> None:
        if kind == "truncated":
            body = json.dumps(self.server.api.answer(request)[1]).encode()
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
        elif kind == "redirect":
            self._send(302, b"", "text/plain", to or "/login")
        elif kind == "html":
            self._send(200, _LOGIN, "text/html")
        elif kind == "json":
            self._send(200, b'{"hello": "world"}')
        else:
            self._send(status, b'{"error": "Track id translation failed; check container logs"}')

    def _send(self, status: int, body: bytes, kind: str = "application/json", location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)
