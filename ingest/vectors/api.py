"""AudioMuse-AI's `GET /api/sync`: vectors where its database cannot be reached. v2.1.3 and later have it.

The list is paged by offset while the library may change, so a track can come twice or slip between two pages. Ids that
come twice are dropped, and before anything is taken for gone the server is asked for it by its id.

Guarantee: a row's identity is the one that the database would give it, because `GET /api/servers` (v3) names the server
by the same id, and before v3 there is one server, `default`. The token is sent to that server only and never shown.
Its answers have neither paths nor durations. Cost: one page (2 MB), one batch and the map of ids (see `IdMap`).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from student_clap.config.runtime.text import one_line
from student_clap.config.schema import AudioMuseConfig, Config
from student_clap.ingest.http.client import Credentials, HttpClient
from student_clap.ingest.http.errors import FetchError
from student_clap.ingest.id_map import IdMap
from student_clap.ingest.sources.texts import whole_characters
from student_clap.ingest.vectors.base import MusicServer, SourceTrack, VectorSourceError, check_kind, choose_server
from student_clap.store import FeatureStore, State, row_blocks

logger = logging.getLogger(__name__)

PAGE_TRACKS = 500  # the most that the server gives
_IDS_CHARS = 2000  # of `ids` in one address; gunicorn refuses lines above 4094
_SAME_PAGES = 3


class ApiError(VectorSourceError):
    """AudioMuse-AI's interface cannot be read. Never carries the token."""


class ApiVectors:
    """The vectors of one media server, as a VectorSource. Use `open_vectors`."""

    def __init__(self, client: HttpClient, wanted: str | None, source: str) -> None:
        self._client = client
        self._source = source
        servers = self._servers()
        self.server = choose_server(servers, wanted, source, of="AudioMuse-AI", error=ApiError)
        # Before v3 a server's name would be ignored, and its ids are the items' own.
        self._named = bool(servers)
        self._first: dict[str, Any] | None = None
        self._total = 0
        self._seen = IdMap[None]()
        self._unanswered = False  # a track that did not come could not be asked for

    def count(self) -> int:
        """Tracks of the server, those without a vector included. Raises ApiError if there are none."""
        self._first = self._page(1)
        provider = self._first.get("provider_type")
        if not self._named and isinstance(provider, str):
            self.server = dataclasses.replace(self.server, server_type=provider)
            check_kind(self.server, self._source, error=ApiError)
        if not self._total:
            raise ApiError(
                f"AudioMuse-AI at {self._client.address} has no analysed tracks of {self.server}; let it analyse the"
                " library first" + (", or choose another server with --server" if self._named else "")
            )
        logger.info("AudioMuse-AI at %s, server %s: %d tracks", self._client.address, self.server, self._total)
        return self._total

    def tracks(self, store: FeatureStore | None, batch_rows: int) -> Iterator[list[SourceTrack]]:
        """The tracks of the server in AudioMuse-AI's own order; then those of the store that slipped through."""
        batch: list[SourceTrack] = []
        for page in self._pages():
            batch += self._fresh(page)
            while len(batch) >= batch_rows:
                yield batch[:batch_rows]
                batch = batch[batch_rows:]
        if batch:
            yield batch
        for ids in _packed(self._not_seen(store) if store is not None else iter(())):
            answer = self._answer({"ids": ",".join(ids), "include_embeddings": "true"})
            # A question by ids has one page; a server that does not know it answers with the first of the list.
            self._unanswered |= bool(answer.get("has_more"))
            found = self._fresh(answer)
            for begin in range(0, len(found), batch_rows):
                yield found[begin : begin + batch_rows]

    def complete(self) -> bool:
        """Whether as many tracks came as the server said at the end, and it was asked for those that did not come."""
        if len(self._seen) != self._total:
            logger.warning(
                "AudioMuse-AI counts %d tracks, and %d came; the library changed meanwhile, run ingest again",
                self._total,
                len(self._seen),
            )
        return len(self._seen) == self._total and not self._unanswered

    def _pages(self) -> Iterator[dict[str, Any]]:
        """Every page of the list; the first is the one that `count` saw."""
        number, same = 1, 0
        page = self._first or self._page(1)
        self._first = None
        while True:
            before = len(self._seen)
            yield page
            if not page.get("has_more"):
                return
            same = 0 if len(self._seen) > before else same + 1
            if same == _SAME_PAGES:
                raise ApiError(
                    f"/api/sync of {self._client.address} brought nothing new on the pages up to {number} of"
                    f" {self._total} tracks, and says there is more; is a proxy's cache between? Else run ingest again"
                )
            number += 1
            page = self._page(number)

    def _page(self, number: int) -> dict[str, Any]:
        page = self._answer({"page": str(number), "limit": str(PAGE_TRACKS), "include_embeddings": "true"})
        total = page.get("total_tracks")
        if not isinstance(total, int) or isinstance(total, bool) or total < 0:
            raise self._foreign("total_tracks is not a number")
        self._total = total
        return page

    def _answer(self, query: dict[str, str]) -> dict[str, Any]:
        if self._named:
            query["server"] = self.server.server_id
        try:
            answer = self._client.get_json("/api/sync", query=query)
        except FetchError as error:
            raise self._readable(error, "/api/sync") from None
        if not isinstance(answer, dict) or not isinstance(answer.get("tracks"), list):
            raise self._foreign("it has no list of tracks")
        return answer

    def _fresh(self, page: dict[str, Any]) -> list[SourceTrack]:
        """The tracks of `page` that did not come before."""
        tracks = [self._parse(entry) for entry in page["tracks"]]
        new = self._seen.add((t.track_id, None) for t in tracks)
        if not all(new):
            logger.debug("%d of %d tracks came before", new.count(False), len(new))
        return [track for track, is_new in zip(tracks, new, strict=True) if is_new]

    def _parse(self, entry: Any) -> SourceTrack:
        track_id = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(track_id, str | int) or track_id == "":
            raise self._foreign("a track has no id")
        if "clap_embedding" not in entry:
            raise ApiError(
                f"AudioMuse-AI at {self._client.address} sends no CLAP vectors; set CLAP_ENABLED=true there, and let it"
                " analyse the library"
            )
        track_id = _text(str(track_id))
        title, artist, album = (_text(entry.get(name)) for name in ("title", "artist", "album"))
        # The interface translates ids and keeps its own; before v3 they are the same.
        item_id = "" if self._named else track_id
        return SourceTrack(track_id, item_id, title, artist, album, "", _vector(track_id, entry["clap_embedding"]))

    def _not_seen(self, store: FeatureStore) -> Iterator[str]:
        """Ids that the store has of this server, and that did not come."""
        states = store.states()
        for begin, end in row_blocks(store.n_tracks):
            ids = store.strings("track_id", begin, end)
            seen = self._seen.find(ids)
            for row, (track_id, server_id) in enumerate(
                zip(ids, store.strings("server_id", begin, end), strict=True), begin
            ):
                if track_id in seen or server_id != self.server.server_id or states[row] == State.GONE:
                    continue
                if not track_id or "," in track_id or len(track_id) > _IDS_CHARS:
                    self._unanswered = True
                else:
                    yield track_id

    def _servers(self) -> list[MusicServer]:
        """The media servers that AudioMuse-AI names; none before v3."""
        try:
            answer = self._client.get_json("/api/servers")
        except FetchError as error:
            if error.status == 404:
                return []
            raise self._readable(error, "/api/servers") from None
        entries = answer.get("servers") if isinstance(answer, dict) else None
        if not isinstance(entries, list):
            raise self._foreign("it has no list of servers", "/api/servers")
        servers = []
        for entry in entries:
            server_id = entry.get("server_id") if isinstance(entry, dict) else None
            if not isinstance(server_id, str) or not server_id:
                raise self._foreign("a server has no server_id", "/api/servers")
            server_id = _text(server_id)
            name = _text(entry.get("name")) or server_id
            servers.append(
                MusicServer(server_id, name, _text(entry.get("server_type")), entry.get("is_default") is True)
            )
        return servers

    def _foreign(self, difference: str, path: str = "/api/sync") -> ApiError:
        return ApiError(
            f"{self._client.address} answers {path}, but not as AudioMuse-AI does: {difference}; check audiomuse.url,"
            " and a reverse proxy's path in it"
        )

    def _readable(self, error: FetchError, path: str) -> ApiError:
        address = self._client.address
        if error.status == 401:
            return ApiError(
                f"AudioMuse-AI at {address} refuses the token (401 Unauthorized); set audiomuse.token to its API_TOKEN"
                " (AUDIOMUSE_TOKEN in .env)"
            )
        if error.status == 403:
            return ApiError(
                f"AudioMuse-AI at {address} refuses {path} (403 Forbidden); set audiomuse.token to its API_TOKEN"
                " (AUDIOMUSE_TOKEN in .env), and finish its set-up if that is still open"
            )
        if error.status == 404:
            return ApiError(
                f"{address} has no {path} (404); AudioMuse-AI has it since v2.1.3: update it, read its database"
                " instead (ingest.vectors: database), or check audiomuse.url and a reverse proxy's path in it"
            )
        if error.status == 400:
            return ApiError(f"AudioMuse-AI at {address} refuses the server {self.server} (400); is it still there?")
        if "JSON" in error.reason:
            return ApiError(
                f"{address} answers {path} with something that is not JSON, such as a login page; set audiomuse.token"
                " to AudioMuse-AI's API_TOKEN, and audiomuse.url to its own address where a proxy asks for a login"
            )
        return ApiError(
            f"AudioMuse-AI at {address} cannot be read: {one_line(error.reason)}; the tracks that came are in the"
            " store, run ingest again"
        )


@contextmanager
def open_vectors(config: Config, wanted: str | None) -> Iterator[ApiVectors]:
    """A client of AudioMuse-AI's interface for the length of the block, its server chosen.

    Args:
        config: names the address, the token and the kind of media server.
        wanted: name or id of the media server; None takes the only or the default one.

    Raises:
        ApiError: not configured, refused, unreachable, or there is no such server.
    """
    with HttpClient(_checked_url(config.audiomuse), config.ingest, threading.Event()) as client:
        client.credentials = Credentials(_headers(config.audiomuse), secret=_token(config.audiomuse))
        yield ApiVectors(client, wanted, config.ingest.source)


def _checked_url(section: AudioMuseConfig) -> str:
    if not section.url:
        raise ApiError("audiomuse.url is not set; expected AudioMuse-AI's address, such as http://192.168.1.10:8000")
    return section.url


def _token(section: AudioMuseConfig) -> str:
    return section.token.get_secret_value() if section.token is not None else ""


def _headers(section: AudioMuseConfig) -> dict[str, str]:
    """Without a token none: AudioMuse-AI may run without authentication."""
    if section.token is None:
        return {}
    token = section.token.get_secret_value()
    if not token.isprintable() or not token.isascii() or token != token.strip():
        raise ApiError("audiomuse.token has characters that no header can carry; was it copied whole?")
    return {"Authorization": f"Bearer {token}"}


def _text(value: Any) -> str:
    """`value`, fit for the store where JSON escapes made halves of characters; empty where it is not text."""
    return whole_characters(value) if isinstance(value, str) else ""


def _vector(track_id: str, value: Any) -> bytes | None:
    """The vector's bytes; none of them where the text is not base64, which makes a row with a reason."""
    if value is None:
        return None
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        logger.warning("track %s: clap_embedding is not base64", one_line(track_id))
        return b""


def _packed(ids: Iterator[str]) -> Iterator[list[str]]:
    """Ids by the list, each short enough for an address."""
    pack: list[str] = []
    n_chars = 0
    for track_id in ids:
        if pack and n_chars + len(track_id) + 1 > _IDS_CHARS:
            yield pack
            pack, n_chars = [], 0
        pack.append(track_id)
        n_chars += len(track_id) + 1
    if pack:
        yield pack
