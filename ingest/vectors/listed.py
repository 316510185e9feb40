"""No source of vectors: the source of audio names the tracks, and `featurize --teacher` makes the vectors.

A folder's files, or everything that a media server lists, with its titles. Guarantee: a list that breaks off is an
error, and one that comes short of what the server counts is not complete, so nothing is marked gone for want of it.
Cost: a request per 500 tracks of a server.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from student_clap.config.schema import Config
from student_clap.config.servers import MEDIA_SERVERS
from student_clap.ingest.http.errors import SourceError
from student_clap.ingest.http.secrets import masked_title
from student_clap.ingest.sources.base import ListedTrack, ServerSource
from student_clap.ingest.sources.open import open_server
from student_clap.ingest.sources.texts import clean_text
from student_clap.ingest.vectors.base import (
    DEFAULT_SERVER_ID,
    MusicServer,
    SourceTrack,
    VectorSource,
    VectorSourceError,
)
from student_clap.store import FeatureStore

logger = logging.getLogger(__name__)


class ServerTracks:
    """Every track that a media server lists, as a VectorSource.

    Args:
        source: the server.
        kind: its name in MEDIA_SERVERS.
        server_id: the name that its rows get.
    """

    def __init__(self, source: ServerSource, kind: str, server_id: str) -> None:
        self._source = source
        self.server = MusicServer(server_id, server_id, kind, is_default=True)

    def count(self) -> None:
        """Ask the server whether it can be used; how many tracks it has the list alone says."""
        try:
            self._source.check()
        except SourceError as error:
            raise VectorSourceError(error.message) from None

    def tracks(self, store: FeatureStore | None, batch_rows: int) -> Iterator[list[SourceTrack]]:  # noqa: ARG002  a stream
        """The tracks in the server's order. Raises VectorSourceError where the list breaks off or is empty."""
        n_tracks = 0
        try:
            for page in self._source.list_tracks():
                n_tracks += len(page)
                for begin in range(0, len(page), batch_rows):
                    yield [_row(track) for track in page[begin : begin + batch_rows]]
        except SourceError as error:
            raise VectorSourceError(error.message) from None
        if not n_tracks:
            raise VectorSourceError(
                f"{self.server} lists no track; is its library mounted and scanned, and does the account see it?"
            )
        logger.info("%s lists %d tracks", self.server, n_tracks)

    def complete(self) -> bool:
        """Whether the list, which came to its end, has as many tracks as the server counts."""
        return self._source.listed_all


def _row(track: ListedTrack) -> SourceTrack:
    title, artist, album = (clean_text(masked_title(text)) for text in (track.title, track.artist, track.album))
    return SourceTrack(track.track_id, "", title, artist, album, track.path, None, bare=True)


@contextmanager
def open_vectors(config: Config, wanted: str | None) -> Iterator[VectorSource]:
    """The tracks of `ingest.source`, for the length of the block.

    Args:
        config: the configuration.
        wanted: the name that a server's rows get; None: `default`. A folder's have that name always.

    Raises:
        VectorSourceError: a setting is missing.
    """
    if not MEDIA_SERVERS[config.ingest.source].remote:
        from student_clap.ingest.vectors.folder import FolderTracks

        yield FolderTracks(config.folder.path)
        return
    stop = threading.Event()
    try:
        server = open_server(config, stop)
    except SourceError as error:
        raise VectorSourceError(error.message) from None
    with server as source:
        try:
            yield ServerTracks(source, config.ingest.source, wanted or DEFAULT_SERVER_ID)
        finally:
            stop.set()
