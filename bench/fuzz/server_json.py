"""The answers of media servers: a byte for the kind of server, then the JSON of its answers, one a line, in turns."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

from pydantic import SecretStr

from fuzz.json_mutator import mutated
from fuzz.target import Target
from student_clap.config.formats.json_text import parse_json
from student_clap.config.schema import Config, IngestConfig
from student_clap.ingest.http.client import Credentials
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.sources import server
from student_clap.ingest.sources.jellyfin import EmbySource, JellyfinSource
from student_clap.ingest.sources.lyrion import LyrionSource
from student_clap.ingest.sources.path_map import parse_server_path
from student_clap.ingest.sources.plex import PlexSource
from student_clap.ingest.sources.subsonic import SubsonicSource, parse_error
from student_clap.ingest.sources.texts import clean_text

_MOST_ANSWERS = 40
_KINDS: tuple[Any, ...] = (JellyfinSource, EmbySource, LyrionSource, PlexSource, SubsonicSource)
_SECRET = SecretStr("secret")
_SETTINGS = {
    "jellyfin": {"url": "http://nas:1", "token": _SECRET, "user_id": "somebody"},
    "emby": {"url": "http://nas:1", "token": _SECRET},
    "lyrion": {"url": "http://nas:1"},
    "plex": {"url": "http://nas:1", "token": _SECRET},
    "navidrome": {"url": "http://nas:1", "user": "u", "password": _SECRET},
}


class _Client:
    """Answers every request with the next document."""

    answers: tuple[bytes, ...] = (b"",)
    asked = 0
    address = "http://nas:1"
    ahead_s = None
    credentials = Credentials()

    def __init__(self, *_: object) -> None:
        type(self).asked = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def get_json(self, *_: object, **__: object) -> Any:
        """The next answer."""
        type(self).asked += 1
        if self.asked > _MOST_ANSWERS:
            raise FetchError("no more", permanent=True, status=404)
        try:
            return parse_json(self.answers[(self.asked - 1) % len(self.answers)])
        except ValueError:
            raise FetchError("the answer is not JSON", permanent=True, kind="unusable answer") from None

    post_json = get_json


def _run(data: bytes, _: Path) -> None:
    kind = _KINDS[data[0] % len(_KINDS)] if data else JellyfinSource
    _Client.answers = tuple(data[1:].split(b"\n"))
    section = getattr(Config(), kind.section).model_copy(update=_SETTINGS[kind.section])
    parse_error(data[1:])
    refused: list[Exception] = []
    # What the program does not foresee is to be seen here, and not to become one of its errors.
    with patch.multiple(server, HttpClient=_Client, nothing_unforeseen=nullcontext):
        for do in (_check, _list, _addresses):
            try:
                with kind(section, IngestConfig(), threading.Event()) as source:
                    do(source)
            except (FetchError, SourceError) as error:
                refused.append(error)
    if refused:
        raise refused[0]


def _check(source: Any) -> None:
    source.check()


def _list(source: Any) -> None:
    for page in source.list_tracks():
        for track in page:
            parse_server_path(track.path)
            clean_text(track.title).encode()


def _addresses(source: Any) -> None:
    source.addresses("1")


def _seeds() -> Iterator[bytes]:
    item = b'{"Id": "a1", "Path": "/m/a.flac", "Name": "t", "AlbumArtist": "x", "Artists": ["x"], "Album": "y"}'
    for kind in (b"\0", b"\1"):
        yield (
            kind
            + b'{"Version": "10.9", "Items": [%s], "TotalRecordCount": 1}\n[{"Id": "0", "Name": "somebody"}]' % item
        )
    title = b'{"id": 1, "url": "file:///m/a%20b.flac", "title": "t"}'
    yield b'\2{"result": {"version": "8", "count": 1, "titles_loop": [' + title + b"]}}"
    yield b'\2{"result": {"songinfo_loop": [{"url": "spotify:track:1"}], "version": "8"}}'
    yield (
        b'\3{"MediaContainer": {"size": 1, "totalSize": 1, "Directory": [{"key": "1", "type": "artist"}], "Metadata": '
        b'[{"ratingKey": "1", "title": "t", "Media": [{"Part": [{"key": "/library/parts/1/2/f", "file": "/m/f"}]}]}]}}'
    )
    yield (
        b'\4{"subsonic-response": {"status": "ok", "type": "x", "serverVersion": "1", "searchResult3": {"song": '
        b'[{"id": "1", "path": "a/b", "title": "t", "artist": "x"}]}, "albumList2": {"album": [{"id": "1"}]}}}'
    )
    yield b'\4{"subsonic-response": {"status": "failed", "error": {"code": 40, "message": "no"}}}'
    yield b'\4<subsonic-response status="failed"><error code="70" message="gone"/></subsonic-response>'


TARGET = Target("server_json", _run, (FetchError, SourceError), _seeds, mutated)
