"""An S3 on 127.0.0.1: moto's server in a thread of this process, its port chosen by the system."""

from __future__ import annotations

import logging
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


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
