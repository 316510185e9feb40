"""The download of one file from a media server: continued where it broke off, whole or not there.

Guarantee: the final name appears when every byte is on disk and FFmpeg finds audio in the file; a text in its place,
such as a login page, is refused before it is written. A file that the server lets be continued (a validator, ranges)
keeps its bytes through broken connections and killed runs; where anything about it differs (validator, length, range,
a compressed answer) the download starts again. Names come from the stem and from the content.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import requests

from student_clap.ingest.cache.budget import Reservation, reserve_room
from student_clap.ingest.cache.container import HEAD_BYTES, NotAudioError, audio_extension, refuse_text
from student_clap.ingest.cache.partial import Partial, covers_whole
from student_clap.ingest.http.body import Body
from student_clap.ingest.http.client import HttpClient
from student_clap.ingest.http.errors import FetchError, NoRoomError, SourceError
from student_clap.ingest.http.retry import RetryError

PROGRESS_BYTES = 1 << 16  # fewer do not count as progress, or a server that drips could hold a run for ever
_RANGE_REFUSED = 416


def download(
    client: HttpClient,
    path: str,
    stem: Path,
    *,
    query: Mapping[str, str] | None = None,
    explain: Callable[[bytes], Exception | None] | None = None,
) -> Path:
    """Download audio to `stem` plus the extension that its content asks for, with the client's retries.

    Args:
        client: asks the server.
        path: below the client's base URL; it is what messages show.
        stem: the final path without its extension.
        query: of the request; never shown.
        explain: called with the first bytes of an answer that is not audio; the error that it returns is raised in
            place of the general one.

    Returns:
        The file's path; it appears when it is whole.

    Raises:
        FetchError: with the reason; `permanent` where retrying would not help.
        NoRoomError: the audio cache's budget is used up.
        SourceError: the file cannot be written, or not be read again.
        StoppedError: the run is ending.
    """
    return client.retry(path, Download(client, path, stem, query, explain).attempt)


def probe(
    client: HttpClient,
    path: str,
    *,
    query: Mapping[str, str] | None = None,
    explain: Callable[[bytes], Exception | None] | None = None,
    whole: bool,
) -> None:
    """See that an address gives audio; nothing is kept. As `download` otherwise.

    Args:
        client, path, query, explain: those of `download`.
        whole: the whole file is fetched and must be audio; else the answer's beginning is looked at.
    """

    def once() -> None:
        with client.open(path, query=query) as response:
            body = client.body(response)
            _see_its_end(body)
            head = next(body.blocks(), b"")
        try:
            refuse_text(head)
        except NotAudioError as error:
            raise _not_audio(head, error, explain) from None

    if not whole:
        client.retry(path, once)
        return
    with tempfile.TemporaryDirectory(prefix="student-clap-") as folder:
        download(client, path, Path(folder, "probe"), query=query, explain=explain)


class Download:
    """The attempts at one file, which know how far the ones before them came. The arguments are those of `download`."""

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
        """Try once, continuing the part that an earlier attempt or run left behind.

        Raises:
            RetryError, FetchError, NoRoomError, SourceError, StoppedError: a part that can be continued is kept; every
                other part, and where the server no longer gives the file this one too, is removed.
        """
        partial = self._partial
        reservation = reserve_room(partial.size)
        left = 0
        try:
            target = self._finish() if partial.complete else self._ask(reservation)
            left = target.stat().st_size
        except RetryError as error:
            if partial.note is not None and partial.size - self._most_bytes >= PROGRESS_BYTES:
                self._most_bytes, error.progress = partial.size, True
            raise
        except FetchError as error:
            if error.permanent and partial.note is not None:
                partial.drop()
            raise
        except OSError as error:  # of the disk: those of the network are RetryErrors
            raise SourceError(f"cannot write {partial.data}: {error.strerror or error}") from None
        finally:
            if not left:
                partial.drop_unless_kept()
                left = partial.size
            reservation.end(left)
        return target

    def _ask(self, reservation: Reservation) -> Path:
        partial = self._partial
        # At most twice: once for the rest, and where that is not to be had, once for the whole.
        while True:
            headers = partial.request_headers()
            accepted = frozenset({200, 206, _RANGE_REFUSED} if headers else {200, 206})
            with self._client.open(self._path, query=self._query, headers=headers, accepted=accepted) as response:
                if response.status_code == 200 or (response.status_code == 206 and covers_whole(response.headers)):
                    self._take_whole(response, reservation)
                    return self._finish()
                if response.status_code == 206 and partial.continued_by(response.headers):
                    self._take_rest(response, reservation)
                    return self._finish()
                if not headers:
                    raise FetchError(
                        "the server sends a part of the file (206) where the whole was asked for",
                        permanent=True,
                        kind="unusable answer",
                    )
            partial.drop()
            reservation.restart()

    def _take_whole(self, response: requests.Response, reservation: Reservation) -> None:
        body = self._client.body(response)
        _see_its_end(body)
        blocks = body.blocks()
        head = b""
        for block in blocks:
            head += block
            if len(head) >= HEAD_BYTES:
                break
        try:
            refuse_text(head)
        except NotAudioError as error:
            raise _not_audio(head, error, self._explain) from None
        n_bytes = body.promised if body.plain else None
        self._partial.drop()
        reservation.restart()
        reservation.hold(len(head) if n_bytes is None else n_bytes)
        self._partial.begin(response.headers, n_bytes, plain=body.plain)
        self._write(chain([head], blocks), reservation)

    def _take_rest(self, response: requests.Response, reservation: Reservation) -> None:
        partial = self._partial
        body = self._client.body(response, begin=partial.size)
        n_bytes = partial.note.n_bytes if partial.note is not None else None
        if n_bytes is None:
            # A length that was not known at first: Content-Range has it, or `continued_by` had refused.
            n_bytes = int(response.headers["Content-Range"].rpartition("/")[2])
        reservation.hold(n_bytes)
        self._write(body.blocks(), reservation)
        if partial.size != n_bytes:
            partial.drop()
            raise RetryError(f"the rest of the file does not make {n_bytes} bytes", kind="wrong length")

    def _write(self, blocks: Iterator[bytes], reservation: Reservation) -> None:
        try:
            with self._partial.append() as file:
                for block in blocks:
                    reservation.hold_as_it_grows(len(block))
                    file.write(block)
                    reservation.wrote(len(block))
        except NoRoomError:
            self._partial.drop()
            raise
        except RetryError as error:
            if error.kind == "wrong length":  # nothing in this answer can be trusted
                self._partial.drop()
            raise

    def _finish(self) -> Path:
        path = self._partial.data
        try:
            try:
                extension = audio_extension(path)
            except NotAudioError as error:
                with path.open("rb") as file:
                    raise _not_audio(file.read(HEAD_BYTES), error, self._explain) from None
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror or error}") from None
        return self._partial.finish(extension)


def _see_its_end(body: Body) -> None:
    if not body.has_end:
        raise FetchError(
            "the server sends neither a Content-Length nor chunks, so a cut-off file could not be told",
            permanent=True,
            kind="unusable answer",
        )


def _not_audio(head: bytes, error: NotAudioError, explain: Callable[[bytes], Exception | None] | None) -> Exception:
    explained = explain(head) if explain is not None else None
    return explained or FetchError(f"the server sent no audio: {error}", permanent=True, kind="no audio")
