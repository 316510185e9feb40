"""A server that answers what a test dictates, byte by byte: for answers that no right server gives."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

Headers = Mapping[str, str]  # lower-case names
Answer = Callable[[Headers], bytes]  # a whole answer; the connection is closed after it


@dataclass
class DictatedServer:
    """Plays `answers` one after the other, the last again and again."""

    answers: list[Answer]
    asked: list[Headers] = field(default_factory=list)
    url: str = ""

    def next_answer(self, headers: Headers) -> bytes:
        """The answer to one request."""
        answer = self.answers[min(len(self.asked), len(self.answers) - 1)]
        self.asked.append(headers)
        return answer(headers)


@contextmanager
def dictated_server(*answers: Answer) -> Iterator[DictatedServer]:
    """A server on loopback for the length of the block."""
    played = DictatedServer(list(answers))

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lines = []
            while (line := self.rfile.readline().strip()) != b"":
                lines.append(line.decode())
            headers = dict(line.split(": ", 1) for line in lines[1:])
            self.wfile.write(played.next_answer({k.lower(): v for k, v in headers.items()}))

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        played.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield played
        finally:
            server.shutdown()


def answer(status: str, body: bytes = b"", **headers: str) -> Answer:
    """The same answer to every request; `_` in a header's name stands for `-`. Content-Length only if given."""
    lines = [f"HTTP/1.1 {status}", "Connection: close", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
    return lambda _: "\r\n".join(lines).encode() + b"\r\n\r\n" + body
