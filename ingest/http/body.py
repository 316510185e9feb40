"""The body of an answer: whole, or an error that says how it ended.

Guarantee: `blocks` ends normally only where the body is complete: as many bytes as Content-Length promised and no
more, or the last chunk; and, where the server compressed it although asked not to, the compressed stream's own end. A
body that trickles below MIN_BYTES_PER_S ends as one that stopped. urllib3's own decoding is not used because it takes
a compressed stream that is cut off for a whole one. Cost: memory for one block.
"""

from __future__ import annotations

import http.client
import threading
import time
import zlib
from collections.abc import Iterator

import requests
import urllib3

from student_clap.ingest.http.errors import FetchError, StoppedError
from student_clap.ingest.http.retry import RetryError
from student_clap.ingest.http.secrets import masked

BLOCK_BYTES = 1 << 17
_MOST_DIGITS = 18
MIN_BYTES_PER_S = 1024  # over the time that is waited for a single byte; a track of 5 MB then takes 80 minutes


def whole_number(text: str) -> int | None:
    """The number in a header or an answer; None where it is none, or longer than any that is meant.

    >>> whole_number("17"), whole_number(""), whole_number("-1"), whole_number("9" * 5000)
    (17, None, None, None)
    """
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None


class Body:
    """The unread body of `response`.

    Args:
        response: opened with stream=True.
        stop: ends the reading.
        timeout_s: of the socket; also the time over which MIN_BYTES_PER_S is measured.
        begin: how much of the file an earlier answer brought, for messages.

    Attributes:
        promised: bytes that Content-Length promises, as they are sent; None where it does not.
        n_bytes: bytes that came, as they are sent.
        plain: the bytes are the file's own, not compressed.

    Raises:
        FetchError: on construction, for an encoding that was not asked for and is not known.
    """

    def __init__(self, response: requests.Response, *, stop: threading.Event, timeout_s: float, begin: int = 0) -> None:
        # Two headers that say the same come joined (RFC 9110, 8.6).
        lengths = {each.strip() for each in response.headers.get("Content-Length", "").split(",")}
        length = lengths.pop() if len(lengths) == 1 else ""
        self.chunked = response.headers.get("Transfer-Encoding", "").strip().lower() == "chunked"
        self.promised = None if self.chunked else whole_number(length)
        self.n_bytes = 0
        self._encoding = response.headers.get("Content-Encoding", "").strip().lower() or "identity"
        self.plain = self._encoding == "identity"
        if self._encoding not in ("identity", "gzip", "x-gzip", "deflate"):
            raise FetchError(
                f"the server answers with the encoding {masked(self._encoding)[:40]!r}, which was not asked for",
                permanent=True,
                kind="unusable answer",
            )
        self._response = response
        self._stop = stop
        self._timeout_s = timeout_s
        self._begin = begin

    @property
    def has_end(self) -> bool:
        """Whether a cut-off body could be told from a whole one."""
        return self.promised is not None or self.chunked

    def blocks(self) -> Iterator[bytes]:
        """The file's bytes, decompressed.

        Raises:
            RetryError: the body broke off, stopped, trickles, or is of another length than promised.
            StoppedError: `stop` was set.
        """
        return self._sent() if self.plain else self._decompressed()

    def _sent(self) -> Iterator[bytes]:
        raw: urllib3.HTTPResponse = self._response.raw
        pace_from, pace_bytes = time.monotonic(), 0
        try:
            while (left := self._left()) > 0:
                if left == 1:
                    self._refuse_surplus(raw)
                # All but the last byte, which is looked at together with what must not follow it. `read1` returns what
                # is there, so that a slow body is seen as it comes.
                block = raw.read1(min(BLOCK_BYTES, max(1, left - 1)), decode_content=False)
                if self._stop.is_set():
                    raise StoppedError
                if not block:
                    break
                self.n_bytes += len(block)
                pace_bytes += len(block)
                elapsed_s = time.monotonic() - pace_from
                if elapsed_s >= self._timeout_s and self._left() > 0:
                    if pace_bytes < MIN_BYTES_PER_S * elapsed_s:
                        raise RetryError(
                            f"the file comes at less than {MIN_BYTES_PER_S} bytes per second", kind="too slow"
                        )
                    pace_from, pace_bytes = time.monotonic(), 0
                yield block
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
            raise self._broken(error) from None
        if self.promised is not None and self.n_bytes != self.promised:
            raise self._broke_off()

    def _left(self) -> int:
        return BLOCK_BYTES + 1 if self.promised is None else self.promised - self.n_bytes

    def _refuse_surplus(self, raw: urllib3.HTTPResponse) -> None:
        """Where a server sends more than it promised, the promise is wrong and the file would be cut off."""
        original: http.client.HTTPResponse | None = getattr(raw, "_original_response", None)
        if original is not None and len(original.peek(2)) > 1:
            raise RetryError(
                f"the server sends more than the {self.promised} bytes that it promised", kind="wrong length"
            )

    def _broken(self, error: Exception) -> RetryError:
        text = str(error).lower()
        if "reset" in text:
            return RetryError("the connection was reset in the middle of the file", kind="broke off")
        if "timed out" in text:
            return RetryError(f"no data for {self._timeout_s:g} s in the middle of the file", kind="timeout")
        return self._broke_off()

    def _broke_off(self) -> RetryError:
        came = self._begin + self.n_bytes
        of = "" if self.promised is None else f" of {self._begin + self.promised}"
        return RetryError(f"the file broke off after {came}{of} bytes", kind="broke off")

    def _decompressed(self) -> Iterator[bytes]:
        decoder = _Decoder(gzip=self._encoding != "deflate")
        try:
            for block in self._sent():
                yield from decoder.feed(block)
        except zlib.error:
            raise RetryError("the compressed answer is damaged", kind="broke off") from None
        if not decoder.at_end:
            raise RetryError(f"the compressed answer broke off after {self.n_bytes} bytes", kind="broke off")


class _Decoder:
    """gzip (of any number of members) or deflate (with zlib's header or, as some servers do, without)."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._first = b""
        self._inflate = zlib.decompressobj(31) if gzip else None

    @property
    def at_end(self) -> bool:
        return self._inflate is not None and self._inflate.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._inflate is None:
            self._first += data
            if len(self._first) < 2:
                return
            data = self._first
            # RFC 1950: compression method 8, and a check that makes the first two bytes a multiple of 31.
            zlib_header = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self._inflate = zlib.decompressobj(15 if zlib_header else -15)
        block = b""
        while data or len(block) == BLOCK_BYTES:  # a full block: there may be more inside
            if self._inflate.eof:
                data = data.lstrip(b"\0")  # padding after the last member
                if not data:
                    return
                if not self._gzip:
                    raise zlib.error("bytes after the end")
                self._inflate = zlib.decompressobj(31)
            block = self._inflate.decompress(data, BLOCK_BYTES)
            data = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
            if block:
                yield block
