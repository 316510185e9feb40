"""Where audio comes from: one small interface, and the choice of the source that the configuration names."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from student_clap.config.schema import Config


@dataclass(frozen=True)
class Wanted:
    """A track whose audio is missing."""

    row: int
    track_id: str
    title: str
    stem: Path  # where a download belongs, without the extension


@dataclass(frozen=True)
class ListedTrack:
    """What a media server lists of one track."""

    track_id: str
    path: str  # on the server; empty where it does not say


class AudioSource(Protocol):
    """A place that audio comes from. `fetch` is called by several threads at once."""

    def check(self) -> None:
        """Find out whether the source can be used at all. Raises SourceError with the remedy."""

    def fetch(self, wanted: Wanted) -> Path:
        """Get one track's audio.

        Returns:
            The complete file.

        Raises:
            FetchError: this track cannot be had.
            SourceError: nothing can be had.
            StoppedError: the run is ending.
        """


class ServerSource(AudioSource, Protocol):
    """A media server: an AudioSource that can also list its tracks."""

    def list_tracks(self) -> Iterator[list[ListedTrack]]:
        """Every track of the server, a page at a time, after `check`. Raises SourceError where the list breaks off."""


@contextmanager
def open_source(config: Config, file_paths: Mapping[str, str], stop: threading.Event) -> Iterator[AudioSource]:
    """The source of `ingest.source`, behind the mapping of `ingest.map` if there is one.

    Args:
        config: the configuration.
        file_paths: track id -> path on the media server, of the tracks whose path is known.
        stop: set to end waits and downloads early.

    Raises:
        SourceError: a setting that the source needs is missing.
    """
    if config.ingest.source == "folder":
        from student_clap.ingest.sources.folder import FolderSource

        yield FolderSource(config.folder.path, file_paths)
        return
    with _open_server(config, stop) as server:
        if config.ingest.map:
            from student_clap.ingest.sources.mapped import MappedSource

            with MappedSource(server, config.ingest.map, file_paths) as mapped:
                yield mapped
        else:
            yield server


def _open_server(config: Config, stop: threading.Event) -> AbstractContextManager[ServerSource]:
    """The media server of `ingest.source`."""
    if config.ingest.source == "emby":
        from student_clap.ingest.sources.emby import EmbySource

        return EmbySource(config.emby, config.ingest, stop)
    if config.ingest.source == "navidrome":
        from student_clap.ingest.sources.subsonic import SubsonicSource

        return SubsonicSource(config.navidrome, config.ingest, stop)
    if config.ingest.source == "lyrion":
        from student_clap.ingest.sources.lyrion import LyrionSource

        return LyrionSource(config.lyrion, config.ingest, stop)
    if config.ingest.source == "plex":
        from student_clap.ingest.sources.plex import PlexSource

        return PlexSource(config.plex, config.ingest, stop)
    from student_clap.ingest.sources.jellyfin import JellyfinSource

    return JellyfinSource(config.jellyfin, config.ingest, stop)
