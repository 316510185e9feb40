"""One file's way from a media server to its place: continued where it broke off, whole or not there.

Guarantee: the final name appears when every byte is on disk and the first ones are audio. A file that the server lets
be continued (a validator, ranges) keeps its bytes through broken connections and killed runs; where anything about it
differs (validator, length, range, a compressed answer) it begins anew. Names come from the stem and from the content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from student_clap.ingest.cache.budget import Claim, claim_room
from student_clap.ingest.cache.container import HEAD_BYTES, NotAudioError, audio_extension
from student_clap.ingest.cache.partial import Partial
from student_clap.ingest.http.errors import FetchError, NoRoomError, SourceError
from student_clap.ingest.http.retry import AgainError

if TYPE_CHECKING:
    from student_clap.ingest.http.client import HttpClient

PROGRESS_BYTES = 1 << 16  # an attempt that brings fewer is none, or a server that drips could hold a run for ever
_RANGE_REFUSED = 416


class Download:
    """The download of one file.

    Args:
        client: asks the server.
        path: below the client's base URL.
        stem: the final path without its extension.
        query: of the request.
        explain: says what stands in the audio's place; see `HttpClient.download`.
    """

    def __init__(
        self,
        client: HttpClient,
        path: str,
        stem: Path,
        query: Mapping[str, str] | None,
        explain: Callable[[bytes], Exception | None] | None,
    ) -> None:
        self._client = client
        self._path = path
        self._query = query
        self._explain = explain
        asked = "\0".join((client.address, path, *(f"{k}={v}" for k, v in sorted((query or {}).items()))))
        self._partial = Partial(stem, hashlib.blake2b(asked.encode(), digest_size=16).hexdigest())
        self._most_bytes = self._partial.size  # that were kept so far

    def attempt(self) -> Path:
        """Try once, continuing what an earlier attempt or run left behind.

        Raises:
            AgainError, FetchError, NoRoomError, SourceError, StoppedError: what can be continued is kept; the rest and,
                where the server no longer gives the file, everything of it is removed.
        """
        partial = self._partial
        claim = claim_room(partial.size)
        left = 0
        try:
            target = self._finish() if partial.complete else self._ask(claim)
            left = target.stat().st_size
        except AgainError as error:
            if partial.note is not None and partial.size - self._most_bytes >= PROGRESS_BYTES:
                self._most_bytes, error.progress = partial.size, True
            raise
        except FetchError as error:
            if error.permanent and partial.note is not None:
                partial.drop()
            raise
        except OSError as error:  # of the disk: those of the network are AgainErrors
            raise SourceError(f"cannot write {partial.data}: {error.strerror or error}") from None
        finally:
            if not left:
                partial.drop_unless_kept()
                left = partial.size
            claim.end(left)
        return target

    def _ask(self, claim: Claim) -> Path:
        partial = self._partial
        # At most twice: once for the rest, and where that is not to be had, once for the whole.
        while True:
            headers = partial.request_headers()
            accepted = frozenset({200, 206, _RANGE_REFUSED} if headers else {200})
            with self._client.open(self._path, query=self._query, headers=headers, accepted=accepted) as response:
                if response.status_code == 200:
                    self._take_whole(response, claim)
                    return self._finish()
                if response.status_code == 206 and partial.continued_by(response.headers):
                    self._take_rest(response, claim)
                    return self._finish()
            partial.drop()
            claim.restart()

    def _take_whole(self, response: requests.Response, claim: Claim) -> None:
        body = self._client.body(response)
        if not body.has_end:
            raise FetchError(
                "the server sends neither a Content-Length nor chunks, so a cut-off file could not be told",
                permanent=True,
                kind="unusable answer",
            )
        blocks = body.blocks()
        head = b""
        for block in blocks:
            head += block
            if len(head) >= HEAD_BYTES:
                break
        self._extension(head)
        n_bytes = body.promised if body.plain else None
        self._partial.drop()
        claim.restart()
        claim.hold(len(head) if n_bytes is None else n_bytes)
        self._partial.begin(response.headers, n_bytes, plain=body.plain)
        self._write(chain([head], blocks), claim)

    def _take_rest(self, response: requests.Response, claim: Claim) -> None:
        partial = self._partial
        body = self._client.body(response, begin=partial.size)
        n_bytes = partial.note.n_bytes if partial.note is not None else None
        if n_bytes is None:
            # A length that was not known at first: Content-Range has it, or `continued_by` had refused.
            n_bytes = int(response.headers["Content-Range"].rpartition("/")[2])
        claim.hold(n_bytes)
        self._write(body.blocks(), claim)
        if partial.size != n_bytes:
            partial.drop()
            raise AgainError(f"the rest of the file does not make {n_bytes} bytes", kind="wrong length")

    def _write(self, blocks: Iterator[bytes], claim: Claim) -> None:
        try:
            with self._partial.append() as file:
                for block in blocks:
                    claim.hold_as_it_grows(len(block))
                    file.write(block)
                    claim.wrote(len(block))
        except NoRoomError:
            self._partial.drop()
            raise
        except AgainError as error:
            if error.kind == "wrong length":  # nothing that this answer said is to be believed
                self._partial.drop()
            raise

    def _finish(self) -> Path:
        with self._partial.data.open("rb") as file:
            head = file.read(HEAD_BYTES)
        return self._partial.finish(self._extension(head))

    def _extension(self, head: bytes) -> str:
        try:
            return audio_extension(head)
        except NotAudioError as error:
            if self._explain is not None and (explained := self._explain(head)) is not None:
                raise explained from None
            raise FetchError(f"the server sent no audio: {error}", permanent=True, kind="no audio") from None
