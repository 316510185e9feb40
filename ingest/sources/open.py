"""The source that the configuration names. Only its module is imported."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from student_clap.config.schema import Config
from student_clap.config.servers import MEDIA_SERVERS
from student_clap.ingest.sources.base import AudioSource, ServerSource

# A server's module has its name, but for those that speak a protocol which is named otherwise.
_PROTOCOLS = {"emby": "jellyfin", "navidrome": "subsonic"}


@contextmanager
def open_source(config: Config, file_paths: Mapping[str, str], stop: threading.Event) -> Iterator[AudioSource]:
    """The source of `ingest.source`, behind the mapping of `ingest.map` if there is one.

    Args:
        config: the configuration.
        file_paths: track id -> path on the media server, of the tracks whose path is known; for `folder` of all,
            "" where it is not.
        stop: set to end waits and downloads early.

    Raises:
        SourceError: a setting that the source needs is missing.
    """
    if not MEDIA_SERVERS[config.ingest.source].remote:
        from student_clap.ingest.sources.folder import FolderSource

        yield FolderSource(config.folder.path, file_paths)
        return
    with open_server(config, stop) as server:
        if config.ingest.map:
            from student_clap.ingest.sources.mapped import MappedSource

            with MappedSource(server, config.ingest.map, file_paths) as mapped:
                yield mapped
        else:
            yield server


def open_server(config: Config, stop: threading.Event) -> AbstractContextManager[ServerSource]:
    """The media server of `ingest.source`, which is not `folder`. Raises SourceError as `open_source`.

    A server's module in this room has `SOURCES`: the names in `MEDIA_SERVERS` that it serves, and the class for each,
    which takes the section of that server, the section `ingest` and `stop`.
    """
    name = config.ingest.source
    module = importlib.import_module(f"student_clap.ingest.sources.{_PROTOCOLS.get(name, name)}")
    server: AbstractContextManager[ServerSource] = module.SOURCES[name](
        getattr(config, MEDIA_SERVERS[name].section), config.ingest, stop
    )
    return server
