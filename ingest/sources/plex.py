"""Audio from Plex.

A track's file is asked for by its part key, which names the file's version too and so changes with it; it is asked of
the server for each track right before the download, one small request, and never kept. The first part of the first
version is taken, as AudioMuse-AI does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from student_clap.config.servers import PlexConfig
from student_clap.ingest.http.client import Credentials
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.sources.base import ListedTrack
from student_clap.ingest.sources.server import (
    PAGE_TRACKS,
    Address,
    Ask,
    Page,
    RemoteServer,
    entries,
    header_token,
    number,
    said,
    text,
)
from student_clap.ingest.sources.texts import main_artist

_JSON = {"Accept": "application/json"}
_TRACK = "10"  # Plex's number of the type
# A key that the server names is asked for only below the server's own address.
_PART_KEY = re.compile(r"/library/parts/(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._~%+-]*(/[A-Za-z0-9._~%+-]+)*")
_SECTION_KEY = re.compile(r"[A-Za-z0-9-]{1,64}")


class PlexSource(RemoteServer[PlexConfig]):
    """A Plex server. Use as a context manager."""

    section = "plex"
    product = "Plex"
    example_url = "http://192.168.1.10:32400"

    @property
    def remedy(self) -> str:
        """A token ends when its user signs out of all devices."""
        return "set plex.token (PLEX_TOKEN in .env) to a valid X-Plex-Token; signing out of all devices ends old ones"

    def credentials(self) -> Sequence[Credentials]:
        """The token, in Plex's own header."""
        if self._settings.token is None:
            raise SourceError("plex.token is not set; expected the X-Plex-Token of an account that sees the library")
        token = header_token(self._settings.token.get_secret_value(), "plex.token")
        return [Credentials({"X-Plex-Token": token}, secret=token)]

    def greet(self, credentials: Credentials) -> str | None:
        """Count the music libraries, for without one every track would seem to be gone."""
        document = self._client.get_json("/library/sections", headers=_JSON, credentials=credentials)
        sections = _contained(document, "Directory")
        if sections is None:
            return None
        n_music = len(_music(sections))
        if not n_music:
            raise SourceError(
                f"Plex at {self._client.address} shows no music library to this token; use a token of an account that"
                " the library is shared with"
            )
        return f"Plex with {n_music} music {'library' if n_music == 1 else 'libraries'}"

    def addresses(self, track_id: str) -> Sequence[Address]:
        """The file as a download, and as a player reads it."""
        document = self._client.get_json(f"/library/metadata/{track_id}", headers=_JSON)
        tracks = entries(document, "MediaContainer", "Metadata", optional=True)
        if tracks is None:
            raise self.unlike("the track's description")
        part = next((part for track in tracks for part in _parts(track)), None)
        if part is None:
            raise FetchError("the server names no file for it", permanent=True, kind="not on the server")
        key = text(part.get("key"))
        if not _PART_KEY.fullmatch(key):
            raise FetchError(
                f"the server names a file outside its parts, {said(key)!r}; not asked for",
                permanent=True,
                kind="unusable answer",
            )
        return Address(key, {"download": "1"}), Address(key)

    def lists(self) -> Iterator[Ask]:
        """A list per music library."""
        document = self._client.get_json("/library/sections", headers=_JSON)
        sections = _contained(document, "Directory")
        if sections is None:
            raise self.unlike("the list of libraries")
        for section in _music(sections):
            key = text(section.get("key"))
            if not _SECTION_KEY.fullmatch(key):
                raise self.unlike("a library's key")

            def ask(start: int, path: str = f"/library/sections/{key}/all") -> Page:
                paging = {"X-Plex-Container-Start": str(start), "X-Plex-Container-Size": str(PAGE_TRACKS)}
                document = self._client.get_json(path, query={"type": _TRACK}, headers=_JSON | paging)
                tracks = _contained(document, "Metadata")
                if tracks is None:
                    raise self.unlike("the list of tracks")
                found = [_listed(track) for track in tracks if text(track.get("ratingKey"))]
                total = number(document["MediaContainer"].get("totalSize"))
                return Page(found, len(tracks), total, len(tracks) >= PAGE_TRACKS)

            yield ask


def _contained(document: Any, key: str) -> list[dict[str, Any]] | None:
    """A container's entries under `key`, which an empty one leaves out; None where it does not say that it is empty."""
    found = entries(document, "MediaContainer", key, optional=True)
    return found if found or (found is not None and text(document["MediaContainer"].get("size")) == "0") else None


def _music(sections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [section for section in sections if section.get("type") == "artist"]


def _parts(track: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for media in entries(track, "Media") or [] for part in entries(media, "Part") or []]


def _listed(track: dict[str, Any]) -> ListedTrack:
    artist = main_artist(text(track.get("grandparentTitle")), text(track.get("originalTitle")))
    album = text(track.get("parentTitle"))
    return ListedTrack(text(track.get("ratingKey")), _file(track), text(track.get("title")), artist, album)


def _file(track: dict[str, Any]) -> str:
    return next((text(part.get("file")) for part in _parts(track)), "")


SOURCES = {"plex": PlexSource}
