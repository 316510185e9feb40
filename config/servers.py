"""The media servers that audio may come from, and the folder that stands for one: their sections of config.yaml.

`MEDIA_SERVERS` is the one list of them. `ingest.source` takes its names, and whatever needs a server's section, or the
keys without which it cannot be asked, finds them here. A new server is a section class, a field of `Config` and an
entry of this list.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from student_clap.config.quantities import LocalPath
from student_clap.config.section import HttpUrl, Section, Source


class MediaServerConfig(Source):
    """A Jellyfin or Emby server."""

    url: HttpUrl = ""
    """Address of the server, such as `http://nas:8096`."""
    user_id: str = ""
    """Name or id of the user whose library is read (Dashboard, Users; the id stands in the address bar)."""
    token: SecretStr | None = None
    """API key from the server's dashboard."""


class SubsonicConfig(Source):
    """Navidrome or any other OpenSubsonic server: either an API key, or user and password."""

    url: HttpUrl = ""
    """Address of the server, such as `http://nas:4533`."""
    user: str = ""
    """User name; goes with `password`."""
    password: SecretStr | None = None
    """Password of `user`."""
    api_key: SecretStr | None = None
    """API key, in place of user and password."""


class LyrionConfig(Source):
    """A Lyrion Music Server; user and password only where it asks for them."""

    url: HttpUrl = ""
    """Address of the server, such as `http://nas:9000`."""
    user: str = ""
    """User name; goes with `password`."""
    password: SecretStr | None = None
    """Password of `user`."""


class PlexConfig(Source):
    """A Plex server."""

    url: HttpUrl = ""
    """Address of the server, such as `http://nas:32400`."""
    token: SecretStr | None = None
    """X-Plex-Token of a user who may read the music library."""


class FolderConfig(Source):
    """A folder of audio that replaces downloads: files are found by track id (file stem) or by the database's path."""

    path: LocalPath | None = None
    """The folder."""


@dataclass(frozen=True)
class MediaServer:
    """One kind of source for audio."""

    name: str  # as ingest.source has it
    section: str  # field of Config
    model: type[Section]  # class of that section
    needed: tuple[tuple[str, ...], ...]  # alternatives: sets of keys of which one has to be complete
    remote: bool = True  # whether it is a server that is asked over HTTP


MEDIA_SERVERS: dict[str, MediaServer] = {
    server.name: server
    for server in (
        MediaServer("jellyfin", "jellyfin", MediaServerConfig, (("url", "token"),)),
        MediaServer("emby", "emby", MediaServerConfig, (("url", "token"),)),
        MediaServer("navidrome", "navidrome", SubsonicConfig, (("url", "api_key"), ("url", "user", "password"))),
        MediaServer("lyrion", "lyrion", LyrionConfig, (("url",),)),
        MediaServer("plex", "plex", PlexConfig, (("url", "token"),)),
        MediaServer("folder", "folder", FolderConfig, (("path",),), remote=False),
    )
}


def names() -> tuple[str, ...]:
    """The values that ingest.source may have; for `choices.Choice`."""
    return tuple(MEDIA_SERVERS)
