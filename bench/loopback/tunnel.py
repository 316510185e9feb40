"""A TCP tunnel on 127.0.0.1 to a socket of this machine, that can stop forwarding while its connections stay open.

So does a VPN whose other end is gone, or a firewall that forgets a connection: nothing comes, and nothing says so.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Tunnel:
    """The tunnel. Use `running_tunnel`.

    Args:
        target: path of the socket at its other end.

    Attributes:
        port: it listens at.
        stalled: set to forward nothing any more; `stall_after` sets it.
        stall_after: bytes from the other end that are still forwarded; None: all of them.
        stalls: set when the first bytes were held back.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.stalled = threading.Event()
        self.stalls = threading.Event()
        self.stall_after: int | None = None
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Cut every connection."""
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self._target))
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=(*pair, far), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while block := source.recv(1 << 14):
                if source is far and self.stall_after is not None:
                    self.stall_after -= len(block)
                    if self.stall_after < 0:
                        self.stalled.set()
                if self.stalled.is_set():
                    self.stalls.set()
                    continue
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def running_tunnel(target: Path) -> Iterator[Tunnel]:
    """A `Tunnel` for the length of the block."""
    tunnel = Tunnel(target)
    try:
        yield tunnel
    finally:
        tunnel.close()
