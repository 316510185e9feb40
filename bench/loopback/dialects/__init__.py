"""The families of media servers that `loopback.mediaserver` speaks, one module each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loopback.dialects.base import Dialect
from loopback.dialects.jellyfin import EmbyDialect, JellyfinDialect
from loopback.dialects.lyrion import LyrionDialect
from loopback.dialects.plex import PlexDialect
from loopback.dialects.subsonic import SubsonicDialect

_DIALECTS: dict[str, Callable[..., Dialect]] = {
    d.kind: d for d in (JellyfinDialect, EmbyDialect, SubsonicDialect, LyrionDialect, PlexDialect)
}
KINDS = tuple(_DIALECTS)


def make_dialect(kind: str, **options: Any) -> Dialect:
    """The dialect of that name. The options are those of its class."""
    return _DIALECTS[kind](**options)
