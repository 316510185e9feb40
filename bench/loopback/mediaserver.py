"""A media server on 127.0.0.1 that speaks what Jellyfin and Emby speak, serves real files, and fails on request.

Endpoints (shared/facts/audiomuse.md, 2.1 and 2.2), Emby's below `/emby`:
`/System/Info`, `/Users`, `/Users/{id}`, `/Items`, `/Users/{id}/Items`, `/Items/{id}`, `/Users/{id}/Items/{id}`,
`/Items/{id}/Download`, `/Audio/{id}/stream`. All need the token. Faults are set per track or per path and used up in
order. Every request is kept in `log`, so that a test can look at the headers.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

FaultKind = Literal["status", "truncated", "reset", "html", "json", "empty", "garbage", "no_length", "redirect"]
_HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in.</body></html>\n"
_TICKS_PER_S = 10_000_000


@dataclass
class Fault:
    """What goes wrong, and how often."""

    kind: FaultKind
    status: int = 200
    times: int | None = None  # None: always
    only: str = ""  # path suffix it applies to, such as "/Download"; empty: every download
    headers: Mapping[str, str] = field(default_factory=dict)  # e.g. Retry-After, Location


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    method: str
    path: str
    query: str
    headers: dict[str, str]  # lower-case names


class MediaServer:
    """The server and its counters. Use `running_media_server`.

    Args:
        files: track id -> audio file.
        kind: "jellyfin" or "emby".
        token: the one that is accepted.
        headers: where it is accepted: "authorization", "x-emby-token". Jellyfin 12 has the first alone, Jellyfin
            before 10.8 in effect the second.
        titles: track id -> (title, artist, album), for the lists.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        *,
        kind: Literal["jellyfin", "emby"] = "jellyfin",
        token: str = "loopback-token-51c9",  # noqa: S107
        headers: frozenset[str] = frozenset({"authorization", "x-emby-token"}),
        titles: Mapping[str, tuple[str, str, str]] | None = None,
    ) -> None:
        self.files = dict(files)
        self.kind = kind
        self.token = token
        self.token_headers = headers if kind == "jellyfin" else frozenset({"x-emby-token"})
        self.titles = dict(titles or {})
        self.user_id = "5f1e0c6f5d0b4d6f8c1a2b3c4d5e6f70"
        self.faults: dict[str, deque[Fault]] = {}
        self.log: list[Request] = []
        self.block_bytes = 1 << 16
        self.block_delay_s = 0.0  # wait before each block of a body: a slow line
        self.max_concurrency = 0
        self._concurrency = 0
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.media = self

    @property
    def url(self) -> str:
        """Base URL, without Emby's `/emby`."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def section(self) -> dict[str, Any]:
        """The `jellyfin` or `emby` section of a config.yaml that names this server."""
        return {"url": self.url, "user_id": self.user_id, "token": self.token}

    def fault(self, key: str, kind: FaultKind, **more: Any) -> None:
        """Let downloads of track `key`, or the path `key`, go wrong; several faults of one key follow each other."""
        self.faults.setdefault(key, deque()).append(Fault(kind, **more))

    def requests(self) -> Counter[str]:
        """Requests so far, by path."""
        with self._lock:
            return Counter(r.path for r in self.log)

    def downloads(self) -> int:
        """Requests for audio so far."""
        return sum(n for path, n in self.requests().items() if path.endswith(("/Download", "/stream")))

    # --- for the handler

    def record(self, request: Request) -> None:
        """Count a request."""
        with self._lock:
            self.log.append(request)

    def next_fault(self, key: str, path: str) -> Fault | None:
        """The fault to play, if any."""
        with self._lock:
            queue = self.faults.get(key)
            if not queue or (queue[0].only and not path.endswith(queue[0].only)):
                return None
            fault = queue[0]
            if fault.times is not None:
                fault.times -= 1
                if fault.times == 0:
                    queue.popleft()
            return fault

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a body that is being sent."""
        with self._lock:
            self._concurrency += 1
            self.max_concurrency = max(self.max_concurrency, self._concurrency)
        try:
            yield
        finally:
            with self._lock:
                self._concurrency -= 1

    def start(self) -> None:
        """Serve from a thread."""
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening. Connections that are open end with their clients."""
        self._http.shutdown()
        self._http.server_close()


@contextmanager
def running_media_server(files: Mapping[str, Path], **options: Any) -> Iterator[MediaServer]:
    """A `MediaServer` for the length of the block."""
    server = MediaServer(files, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    media: MediaServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Be quiet; `MediaServer.log` has it."""

    def do_GET(self) -> None:
        """Answer one request."""
        media = self.server.media
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        media.record(Request("GET", path, parts.query, {k.lower(): v for k, v in self.headers.items()}))
        if (fault := media.next_fault(path, path)) is not None:
            self._fail(fault, b"")
            return
        if media.kind == "emby":
            if not path.startswith("/emby/"):
                self._send(404, b"not found")
                return
            path = path.removeprefix("/emby")
        if not self._token_ok():
            self._send(401, b"")
            return
        if match := re.fullmatch(r"/Items/([^/]+)/Download|/Audio/([^/]+)/stream", path):
            self._audio(match[1] or match[2], path)
        else:
            self._describe(path, parse_qs(parts.query))

    def _token_ok(self) -> bool:
        media = self.server.media
        found = re.fullmatch(r'MediaBrowser .*Token="([^"]*)".*', self.headers.get("Authorization", ""))
        return (found is not None and found[1] == media.token and "authorization" in media.token_headers) or (
            self.headers.get("X-Emby-Token") == media.token and "x-emby-token" in media.token_headers
        )

    def _describe(self, path: str, query: dict[str, list[str]]) -> None:
        media = self.server.media
        if path == "/System/Info":
            name = "Jellyfin Server" if media.kind == "jellyfin" else "Emby Server"
            version = "10.11.0" if media.kind == "jellyfin" else "4.9.0.0"
            self._send_json({"ServerName": "loopback", "ProductName": name, "Version": version, "Id": "loopback"})
        elif path == "/Users":
            self._send_json([{"Name": "listener", "Id": media.user_id}])
        elif path == f"/Users/{media.user_id}":
            self._send_json({"Name": "listener", "Id": media.user_id})
        elif path in ("/Items", f"/Users/{media.user_id}/Items"):
            ids = sorted(media.files)
            first = int(query.get("StartIndex", ["0"])[0])
            limit = int(query.get("Limit", [str(len(ids))])[0])
            items = [self._item(i) for i in ids[first : first + limit]]
            self._send_json({"Items": items, "TotalRecordCount": len(ids), "StartIndex": first})
        elif (match := re.fullmatch(r"(?:/Users/[^/]+)?/Items/([^/]+)", path)) and match[1] in media.files:
            self._send_json(self._item(match[1]))
        else:
            self._send(404, b"not found")

    def _item(self, track_id: str) -> dict[str, Any]:
        media = self.server.media
        title, artist, album = media.titles.get(track_id, (track_id, "", ""))
        file = media.files[track_id]
        return {
            "Id": track_id,
            "Name": title,
            "Type": "Audio",
            "Container": file.suffix.lstrip("."),
            "Path": str(file),
            "Album": album,
            "AlbumArtist": artist,
            "Artists": [artist],
            "ArtistItems": [{"Name": artist, "Id": "a"}],
            "RunTimeTicks": 10 * _TICKS_PER_S,
        }

    def _audio(self, track_id: str, path: str) -> None:
        media = self.server.media
        file = media.files.get(track_id)
        fault = media.next_fault(track_id, path)
        if file is None:
            self._send(404, b"not found")
            return
        with media.one_more():
            if fault is not None:
                self._fail(fault, file.read_bytes())
            else:
                # A name that must not become a path.
                self._send(
                    200, file.read_bytes(), "audio/x", {"Content-Disposition": 'attachment; filename="../../evil.sh"'}
                )

    def _fail(self, fault: Fault, body: bytes) -> None:
        headers = dict(fault.headers)
        if fault.kind == "status":
            self._send(fault.status, b"an error", "text/plain", headers)
        elif fault.kind == "redirect":
            self._send(fault.status if fault.status != 200 else 302, b"", headers=headers)
        elif fault.kind == "html":
            self._send(fault.status, _HTML, "text/html; charset=utf-8", headers)
        elif fault.kind == "json":
            self._send(fault.status, b'{"error": "no"}', "application/json", headers)
        elif fault.kind == "empty":
            self._send(200, b"", "audio/flac", headers)
        elif fault.kind == "garbage":
            self._send(200, bytes(range(1, 200)) * 50, "audio/flac", headers)
        elif fault.kind == "no_length":
            self.close_connection = True
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)
        else:
            self._break_off(body, reset=fault.kind == "reset")

    def _break_off(self, body: bytes, *, reset: bool) -> None:
        """Promise the whole body and send half of it."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        if reset:
            # Lingering 0 s turns the close into a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), "application/json")

    def _send(
        self, status: int, body: bytes, content_type: str = "text/plain", headers: Mapping[str, str] | None = None
    ) -> None:
        media = self.server.media
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        for begin in range(0, len(body), media.block_bytes):
            if media.block_delay_s:
                time.sleep(media.block_delay_s)
            self.wfile.write(body[begin : begin + media.block_bytes])
