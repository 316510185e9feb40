"""Where teacher vectors come from: one small interface, and the choice of the source that the configuration names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.schema import Config
from student_clap.store import FeatureStore

DEFAULT_SERVER_ID = "default"  # of sources that do not name their servers


class VectorSourceError(click.ClickException):
    """The source of vectors cannot be read. Never carries a password or a token."""


@dataclass(frozen=True)
class MusicServer:
    """The media server that track ids belong to."""

    server_id: str
    name: str
    server_type: str  # jellyfin, emby, navidrome, lyrion, plex; empty where the source does not say
    is_default: bool

    def __str__(self) -> str:
        if not self.server_type:
            return self.name
        if self.name == self.server_id == DEFAULT_SERVER_ID:
            return f"{self.name} ({self.server_type})"
        return f"{self.name} ({self.server_type}, id {self.server_id}{', default' if self.is_default else ''})"


@dataclass(frozen=True)
class SourceTrack:
    """What a source says of one track."""

    track_id: str
    item_id: str
    title: str
    artist: str
    album: str
    file_path: str  # on the media server, or absolute on this machine; empty if it is not known
    embedding: bytes | memoryview | None  # 2048 bytes; None: the track has no vector
    # [segment, 512] float16, unit length, in production's order; None where the source has none
    segments: npt.NDArray[np.float16] | None = field(default=None, compare=False)
    # The store's row is current; `embedding` and `segments` are None and nothing is compared.
    kept: bool = False
    audio_mark: str = ""  # of the file's content, where item_id begins with one; another one outdates the features
    error: str = ""  # why there is no vector, where the track is to have a row that says so


class VectorSource(Protocol):
    """A place that vectors come from. Obtained, checked, from `open_vector_source`."""

    server: MusicServer

    def count(self) -> int:
        """Tracks to expect, for progress. Raises VectorSourceError if there is nothing to be had, with the remedy."""

    def tracks(self, store: FeatureStore, batch_rows: int) -> Iterator[list[SourceTrack]]:
        """The tracks in batches of at most `batch_rows`, in an order that two runs share.

        Args:
            store: the open store, for sources that ask which vectors are there already.
            batch_rows: most tracks of a batch.
        """

    def complete(self) -> bool:
        """Whether `tracks`, which has ended, gave everything: only then is what it did not name GONE."""


@contextmanager
def open_vector_source(config: Config, server_name: str | None) -> Iterator[VectorSource]:
    """The source that `ingest.vectors` names.

    Args:
        config: the configuration.
        server_name: name or id of the server whose track ids are wanted; None takes ingest.server or the default.

    Raises:
        VectorSourceError: a setting is missing, or the source cannot be read.
    """
    wanted = server_name or config.ingest.server
    if config.ingest.vectors == "api":
        from student_clap.ingest.vectors.api import open_api

        with open_api(config, wanted) as api:
            yield api
    elif config.ingest.vectors == "table":
        from student_clap.ingest.vectors.table import open_table

        yield open_table(config, wanted)
    elif config.ingest.vectors == "teacher":
        from student_clap.ingest.vectors.folder import TeacherFolder

        with TeacherFolder(config) as folder:
            yield folder
    else:
        from student_clap.ingest.vectors.database import open_database

        with open_database(config.database) as database:
            yield database.of_server(wanted, config.ingest.source)
