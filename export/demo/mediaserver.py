"""A media server on 127.0.0.1 that speaks as any of those in docs/config.md does, and fails on request.

What differs between servers is a dialect (`demo.dialects`); here are serving with ranges (RFC 9110, 14), faults
(`demo.faults`), counters and the log. Faults are set per track or per path and used up in order. Every request is
kept in `log`, with its secrets, so that a test can look at them.

Guarantee: it listens on this machine only, and keeps its port between `stop` and `start`. Cost: a file is sent block by
block and never held whole, but by the faults that must change it.
"""

from __future__ import annotations

import base64
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from student_clap.export.demo.body import Body
from student_clap.export.demo.dialects import make_dialect
from student_clap.export.demo.dialects.base import USER_ID, Audio, Request
from student_clap.export.demo.faults import Fault, FaultKind, play

__all__ = ["Fault", "FaultKind", "MediaServer", "Request", "running_media_server"]


class MediaServer:
    """The server and its counters. Use `running_media_server`.

    Args:
        files: track id -> audio file.
        kind: a media server's name, as docs/config.md has it for `ingest.source`.
        token: the secret that is accepted: token, password or API key.
        titles: track id -> (title, artist, album), for the lists.
        paths: track id -> path that the lists give, where that is not the file's.
        options: of the dialect, such as Jellyfin's `headers` or Navidrome's `api_key`.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        *,
        kind: str = "jellyfin",
        token: str = "loopback-token-51c9",  # noqa: S107
        titles: Mapping[str, tuple[str, str, str]] | None = None,
        paths: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.files = dict(files)
        self.kind = kind
        self.token = token
        self.titles = dict(titles or {})
        self.paths = dict(paths or {})
        self.user = "listener"
        self.user_id = USER_ID
        self.dialect = make_dialect(kind, **options)
        self.faults: dict[str, deque[Fault]] = {}
        self.log: list[Request] = []
        self.block_bytes = 1 << 16
        self.block_delay_s = 0.0  # wait before each block of a body: a slow line
        self.ranges = True  # honour Range
        self.validators = {"etag", "last-modified"}  # what a file's answer carries
        self.max_concurrency = 0
        self._concurrency = 0
        self._lock = threading.Lock()  # of what is counted
        self._lifecycle = threading.Lock()  # of `start` and `stop`, which a fault may call too
        self._closed = False
        self._http: _Server | None = _Server(("127.0.0.1", 0), self)
        self.port: int = self._http.server_address[1]
        self._placeholder: socket.socket | None = None

    @property
    def url(self) -> str:
        """Base URL, without Emby's `/emby`."""
        return f"http://127.0.0.1:{self.port}"

    def section(self) -> dict[str, Any]:
        """The section of a config.yaml that names this server; its name is `kind`."""
        return self.dialect.section(self, self.url)

    def secrets(self) -> set[str]:
        """What must be shown nowhere: the secret in every spelling, and what clients made of it so far."""
        plain = {self.token, quote(self.token, safe="")}
        raw = (self.token.encode(), f"{self.user}:{self.token}".encode())
        spelt = {text for b in raw for text in (b.hex(), base64.b64encode(b).decode().rstrip("="))}
        with self._lock:
            sent = {v for r in self.log for k, v in r.parameters().items() if k in self.dialect.secret_parameters}
            sent |= {_proof(v) for r in self.log for k, v in r.headers.items() if k in self.dialect.secret_headers}
        return plain | spelt | sent

    def fault(self, key: str, kind: FaultKind, **more: Any) -> None:
        """Let downloads of track `key`, or the path `key`, go wrong; several faults of one key follow each other."""
        self.faults.setdefault(key, deque()).append(Fault(kind, **more))

    def requests(self) -> Counter[str]:
        """Requests so far, by path."""
        with self._lock:
            return Counter(r.path for r in self.log)

    def downloads(self, track_id: str | None = None) -> int:
        """Requests for audio so far; with `track_id`, for that track's."""
        with self._lock:
            asked = [self.dialect.track_of(r) for r in self.log]
        return sum(a is not None and track_id in (None, a) for a in asked)

    def start(self) -> None:
        """Serve from a thread, again after `stop` at the same port."""
        with self._lifecycle:
            if self._closed:
                return
            self._http = self._http or _Server(("127.0.0.1", self.port), self)
            self._http.served = True
            self._release()
            threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening and cut the connections that are open, as a process that ends. The port stays taken."""
        with self._lifecycle:
            if self._http is None:
                return
            self._http.end()
            self._http = None
            # Bound, but not listening: who connects is refused, and no other program gets the port.
            self._placeholder = socket.socket()
            self._placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._placeholder.bind(("127.0.0.1", self.port))

    def die(self, down_s: float | None) -> None:
        """Stop, and start again after so long; None: stay down. For a handler: the server ends under it."""
        self.stop()
        if down_s is not None:
            timer = threading.Timer(down_s, self.start)
            timer.daemon = True
            timer.start()

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        with self._lifecycle:
            self._closed = True
            self._release()

    def _release(self) -> None:
        if self._placeholder is not None:
            self._placeholder.close()
            self._placeholder = None

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


@contextmanager
def running_media_server(files: Mapping[str, Path], **options: Any) -> Iterator[MediaServer]:
    """A `MediaServer` for the length of the block."""
    server = MediaServer(files, **options)
    server.start()
    try:
        yield server
    finally:
        server.close()


def _proof(header: str) -> str:
    """The secret in `MediaBrowser Token="..."`, in `Basic ...`, or alone."""
    return header.split('"')[1] if '"' in header else header.rsplit(" ", maxsplit=1)[-1].rstrip("=")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], media: MediaServer) -> None:
        self.media = media
        self.ending = threading.Event()
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        self.served = False  # there is, or will be, a `serve_forever` to be ended
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def end(self) -> None:
        """Stop listening and cut every connection."""
        self.ending.set()
        if self.served:
            self.shutdown()
        self.server_close()
        with self._open_lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        # A client that goes away, or a connection that a fault has closed.
        if not isinstance(error, OSError) and not (isinstance(error, ValueError) and "closed file" in str(error)):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

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
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {k.lower(): v for k, v in self.headers.items()}
        request = Request(self.command, path, parts.query, headers, content, time.monotonic())
        media.record(request)
        fault = media.next_fault(path, path)
        answer = media.dialect.answer(request, media)
        if isinstance(answer, Audio):
            self._audio(answer, fault)
        elif fault is not None:
            play(fault, self, Body.of_document(answer.body))
        else:
            self.send_whole(answer.status, answer.body, answer.content_type, answer.headers)

    do_POST = do_GET  # noqa: N815 - the name that http.server looks for

    def _audio(self, audio: Audio, fault: Fault | None) -> None:
        media = self.server.media
        fault = fault or media.next_fault(audio.track_id, audio.endpoint)
        whole = Body.of(media.files[audio.track_id], media.validators)
        body: Body | None = whole
        if media.ranges and "Range" in self.headers:
            body = whole.part(self.headers["Range"], self.headers.get("If-Range", ""))
        with media.one_more():
            if fault is not None:
                play(fault, self, body or whole)
            elif body is None:
                self.send_whole(416, b"", "text/plain", {"Content-Range": f"bytes */{whole.size}"})
            else:
                self.begin(body)
                self.send_part(body, 1.0)

    # --- for faults too

    def begin(self, body: Body, content_length: int | None = None) -> None:
        """Send status and headers for `body`."""
        self.send_response(206 if body.ranged else 200)
        self.send_header("Content-Type", "audio/x")
        # A name that must not become a path.
        self.send_header("Content-Disposition", 'attachment; filename="../../evil.sh"')
        self.send_header("Content-Length", str(body.length if content_length is None else content_length))
        if self.server.media.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if body.ranged:
            self.send_header("Content-Range", f"bytes {body.begin}-{body.end - 1}/{body.size}")
        for name, value in body.validators:
            self.send_header(name, value)
        self.end_headers()

    def send_part(self, body: Body, share: float) -> None:
        """Send the first `share` of the body."""
        media = self.server.media
        for block in replace(body, end=body.begin + int(body.length * share)).blocks(media.block_bytes):
            self._send_block(block)

    def send_whole(self, status: int, content: bytes, content_type: str, headers: Mapping[str, str]) -> None:
        """Send an answer that is no file."""
        media = self.server.media
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for begin in range(0, len(content), media.block_bytes):
            self._send_block(content[begin : begin + media.block_bytes])

    def trickle(self, content: bytes, every_s: float) -> None:
        """Send a byte now and then."""
        for byte in content:
            if self.server.ending.wait(every_s):
                return
            self.wfile.write(bytes([byte]))

    def _send_block(self, block: bytes) -> None:
        if self.server.media.block_delay_s:
            self.server.ending.wait(self.server.media.block_delay_s)
        self.wfile.write(block)
