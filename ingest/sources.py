"""Where audio comes from: one small interface, and the choice of the source that the configuration names."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def open_source(config: Config, file_paths: dict[str, str], stop: threading.Event) -> Iterator[AudioSource]:
    """The source of `ingest.source`.

    Args:
        config: the configuration.
        file_paths: track id -> path on the media server, of every track the database lists.
        stop: set to end waits and downloads early.

    Raises:
        SourceError: a setting that the source needs is missing.
    """
    if config.ingest.source == "folder":
        from student_clap.ingest.folder import FolderSource

        yield FolderSource(config.folder.path, file_paths)
        return
    from student_clap.ingest.emby import EmbySource
    from student_clap.ingest.jellyfin import JellyfinSource

    if config.ingest.source == "emby":
        with EmbySource(config.emby, config.ingest, stop) as emby:
            yield emby
    else:
        with JellyfinSource(config.jellyfin, config.ingest, stop) as jellyfin:
            yield jellyfin
