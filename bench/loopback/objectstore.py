"""An S3 on 127.0.0.1: moto's server in a thread of this process on a free port, and a proxy that counts."""

from __future__ import annotations

import http.client
import logging
import re
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


@dataclass(frozen=True)
class ObjectServer:
    """Where it listens."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to be told."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "loopback-key",
            "AWS_SECRET_ACCESS_KEY": "loopback-secret",
        }

    def create_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        self._ask("PUT", name)

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object, as somebody else would."""
        self._ask("DELETE", f"{bucket}/{key}")

    def get(self, bucket: str, key: str) -> bytes:
        """The content of an object."""
        return self._ask("GET", f"{bucket}/{key}")

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Write an object, as somebody else would."""
        self._ask("PUT", f"{bucket}/{key}", data)

    def _ask(self, method: str, path: str, data: bytes | None = None) -> bytes:
        # moto believes any signature, but wants to see one.
        scope = "loopback-key/20200101/us-east-1/s3/aws4_request"
        authorization = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
        headers = {"Authorization": authorization, "Content-Type": "application/octet-stream"}
        request = urllib.request.Request(f"{self.endpoint}/{path}", data, headers, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return bytes(answer.read())


@contextmanager
def running_objectstore() -> Iterator[ObjectServer]:
    """Start it; what is in it is forgotten at the end."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server: Any = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield ObjectServer(f"http://{host}:{port}")
    finally:
        server.stop()


@dataclass(frozen=True)
class Request:
    """A request for reading."""

    method: str
    path: str  # with the query
    range: str | None

    @property
    def is_of_shard(self) -> bool:
        """Whether it is for a file of a single track."""
        return re.search(r"/c/\d+/0/0$", self.path.partition("?")[0]) is not None


@dataclass
class Counts:
    """Requests that passed, and the bytes of their answers."""

    requests: list[Request] = field(default_factory=list)
    n_bytes: int = 0

    def take(self) -> list[Request]:
        """The requests since this was last asked."""
        found, self.requests = self.requests, []
        return found


@contextmanager
def counting(endpoint: str) -> Iterator[tuple[str, Counts]]:
    """A proxy before an object store, for reading: its endpoint and what passes it."""
    counts = Counts()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            counts.requests.append(Request(self.command, unquote(self.path), self.headers["Range"]))
            to_server = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=30)
            to_server.request(self.command, self.path, headers=dict(self.headers))
            answer = to_server.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            counts.n_bytes += len(body)
            to_server.close()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", counts
    finally:
        server.shutdown()
        server.server_close()
