"""What can go wrong with one answer, and how it is sent wrong.

A fault plays on the connection of one request. Guarantee: it ends when the client closes, or when the server does.
"""

from __future__ import annotations

import email.utils
import gzip
import json
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote

from student_clap.export.demo.dialects.subsonic import failed

if TYPE_CHECKING:
    from student_clap.export.demo.body import Body
    from student_clap.export.demo.mediaserver import Handler

FaultKind = Literal[
    "status",  # `status`, with a line of text
    "redirect",  # 302 (or `status`) to `headers["Location"]`, or to the same path and query at `to`
    "html",  # a page, with `status`
    "json",  # a JSON document, with `status`
    "echo",  # `status`, with words and an error of Subsonic's that repeat the query and the headers
    "subsonic",  # Subsonic's own error `code`, with status 200
    "empty",  # a body of no bytes
    "garbage",  # a body that is no audio
    "truncated",  # the whole is promised, the connection ends after `share` of it
    "reset",  # as "truncated", by a reset
    "die",  # as "truncated", and the server with it; it is back after `down_s` s, or when it is started again
    "overstated",  # Content-Length is larger than the body
    "understated",  # Content-Length is smaller than the body
    "long",  # the body goes on after what was promised
    "gzip",  # compressed, though nobody asked for that
    "chunked",  # in chunks, whole; with `share` < 1 broken off
    "no_length",  # neither Content-Length nor chunks
    "headers",  # the file with `status` and `headers` alone, each of whose values may be several
    "raw",  # `content`, status line and headers and all, and the connection ends
    "slow_headers",  # a byte of the headers every `every_s` s
    "slow_body",  # a byte of the body every `every_s` s
]
_HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in.</body></html>\n"
_JUNK = b"\0and a proxy's page\0" * 200


@dataclass
class Fault:
    """What goes wrong, and how often."""

    kind: FaultKind
    status: int = 200
    times: int | None = None  # None: always
    only: str = ""  # path suffix it applies to, such as "/Download"; empty: every download
    headers: Mapping[str, str] = field(default_factory=dict)  # e.g. Retry-After, Location
    retry_at_s: float | None = None  # so far ahead, rounded down to a second, lies the date of Retry-After
    to: str = ""  # another server's URL
    code: int = 70  # Subsonic's
    content: bytes = b""
    share: float = 0.5  # of the body that is sent
    every_s: float = 0.05
    down_s: float | None = None  # None: until it is started


def play(fault: Fault, handler: Handler, body: Body) -> None:
    """Answer the request of `handler` as `fault` says. `body`: what a right answer would carry."""
    _PLAYS[fault.kind](fault, handler, body)


def _status(fault: Fault, handler: Handler, _: Body) -> None:
    headers = dict(fault.headers)
    if fault.retry_at_s is not None:
        headers["Retry-After"] = email.utils.formatdate(time.time() + fault.retry_at_s, usegmt=True)
    handler.send_whole(fault.status, b"an error", "text/plain", headers)


def _redirect(fault: Fault, handler: Handler, _: Body) -> None:
    headers = dict(fault.headers)
    if fault.to:
        headers["Location"] = fault.to + handler.path
    handler.send_whole(302 if fault.status == 200 else fault.status, b"", "text/plain", headers)


def _html(fault: Fault, handler: Handler, _: Body) -> None:
    handler.send_whole(fault.status, _HTML, "text/html; charset=utf-8", fault.headers)


def _json(fault: Fault, handler: Handler, _: Body) -> None:
    handler.send_whole(fault.status, b'{"error": "no"}', "application/json", fault.headers)


def _subsonic(fault: Fault, handler: Handler, _: Body) -> None:
    reply = failed(fault.code, "json" if "f=json" in handler.path else "xml")
    handler.send_whole(reply.status, reply.body, reply.content_type, fault.headers)


def _echo(fault: Fault, handler: Handler, _: Body) -> None:
    heard = [handler.path, unquote(handler.path), *handler.headers.values()]
    error = {"code": fault.code, "message": " ".join(heard)}
    content = json.dumps({"subsonic-response": {"status": "failed", "version": "1.16.1", "error": error}}).encode()
    handler.send_response(fault.status, " ".join(heard).replace("\n", " "))
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _empty(fault: Fault, handler: Handler, _: Body) -> None:
    handler.send_whole(200, b"", "audio/flac", fault.headers)


def _garbage(fault: Fault, handler: Handler, _: Body) -> None:
    handler.send_whole(200, bytes(range(1, 200)) * 50, "audio/flac", fault.headers)


def _truncated(fault: Fault, handler: Handler, body: Body) -> None:
    handler.begin(body)
    handler.send_part(body, fault.share)
    handler.close_connection = True


def _reset(fault: Fault, handler: Handler, body: Body) -> None:
    _truncated(fault, handler, body)
    # Lingering 0 s turns the close into a reset.
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def _die(fault: Fault, handler: Handler, body: Body) -> None:
    _truncated(fault, handler, body)
    handler.server.media.die(fault.down_s)


def _wrong_length(difference: Callable[[int], int]) -> Callable[[Fault, Handler, Body], None]:
    def send(_: Fault, handler: Handler, body: Body) -> None:
        body = body.whole()  # a server that counts wrong knows no ranges
        handler.begin(body, content_length=body.length + difference(body.length))
        handler.send_part(body, 1.0)
        handler.close_connection = True

    return send


def _long(_: Fault, handler: Handler, body: Body) -> None:
    handler.begin(body)
    # At once, so that it does not depend on the moment whether the rest is there when the promised part has been read.
    handler.wfile.write(body.read() + _JUNK)
    handler.close_connection = True


def _gzip(fault: Fault, handler: Handler, body: Body) -> None:
    packed = gzip.compress(body.whole().read(), 1)
    handler.send_whole(200, packed, "audio/flac", {**fault.headers, "Content-Encoding": "gzip"})


def _chunked(fault: Fault, handler: Handler, body: Body) -> None:
    content = body.whole().read()
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    content = content[: int(len(content) * fault.share)] if fault.share < 1 else content
    for begin in range(0, len(content), 1000):
        block = content[begin : begin + 1000]
        handler.wfile.write(f"{len(block):x}\r\n".encode() + block + b"\r\n")
    if fault.share < 1:
        handler.close_connection = True
    else:
        handler.wfile.write(b"0\r\n\r\n")


def _no_length(_: Fault, handler: Handler, body: Body) -> None:
    handler.close_connection = True
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(body.whole().read())


def _headers(fault: Fault, handler: Handler, body: Body) -> None:
    handler.close_connection = True
    handler.send_response(fault.status)
    for name, value in fault.headers.items():
        for line in value.split("\n"):
            handler.send_header(name, line)
    handler.end_headers()
    handler.wfile.write(body.whole().read())


def _raw(fault: Fault, handler: Handler, _: Body) -> None:
    handler.close_connection = True
    handler.wfile.write(fault.content)


def _slow_headers(fault: Fault, handler: Handler, _: Body) -> None:
    handler.close_connection = True
    handler.trickle(b"HTTP/1.1 200 OK\r\nX-Patience: " + b"x" * 100_000, fault.every_s)


def _slow_body(fault: Fault, handler: Handler, body: Body) -> None:
    handler.close_connection = True
    handler.begin(body)
    handler.trickle(body.read(), fault.every_s)


_PLAYS: Mapping[FaultKind, Callable[[Fault, Handler, Body], None]] = {
    "status": _status,
    "redirect": _redirect,
    "html": _html,
    "json": _json,
    "echo": _echo,
    "subsonic": _subsonic,
    "empty": _empty,
    "garbage": _garbage,
    "truncated": _truncated,
    "reset": _reset,
    "die": _die,
    "overstated": _wrong_length(lambda _: 1000),
    "understated": _wrong_length(lambda length: -(length // 2)),
    "long": _long,
    "gzip": _gzip,
    "chunked": _chunked,
    "no_length": _no_length,
    "headers": _headers,
    "raw": _raw,
    "slow_headers": _slow_headers,
    "slow_body": _slow_body,
}
