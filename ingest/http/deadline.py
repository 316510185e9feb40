"""An answer's headers must all be there in time, however they come.

A socket's timeout is for each read, so a server that sends a byte now and then would hold a request for ever; urllib3's
`Timeout(total=...)` limits each read too, not their sum. Here the connection is cut when the time for the whole of the
headers is over. Cost: a thread that sleeps, for each request.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import HTTPResponse


class DeadlineAdapter(HTTPAdapter):
    """An adapter whose read timeout is also the time that all headers of an answer may take."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make urllib3's pools open connections of the classes below."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}


class _Http(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3's own
        with _cut_late(self):
            return super().getresponse()


class _Https(HTTPSConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        with _cut_late(self):
            return super().getresponse()


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


@contextmanager
def _cut_late(connection: HTTPConnection) -> Iterator[None]:
    """Cut `connection` if the block takes longer than its timeout; the block then ends in a TimeoutError."""
    late = threading.Event()
    sock = connection.sock

    def cut() -> None:
        late.set()
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    if not isinstance(connection.timeout, int | float) or sock is None:
        yield
        return
    timer = threading.Timer(connection.timeout, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception:  # of a connection that was cut: whatever the parser makes of it, the deadline is the reason
        if not late.is_set():
            raise
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError("timed out")  # the headers, cut short, may have looked whole
