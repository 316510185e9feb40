"""Title, artist and album of an audio file: from its tags, else from where it lies.

The artist is that of `main_artist`. Without tags the folders are read as Artist/Album/Title, then the name as
`Artist - Title`. Guarantee: a file without tags, or with broken ones, is not an error. Cost: opening the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import av

from student_clap.config.runtime.container import open_container
from student_clap.ingest.sources.texts import clean_text, main_artist


@dataclass(frozen=True)
class Tags:
    """Title, artist and album; empty where nothing names them."""

    title: str
    artist: str
    album: str


def read_tags(path: Path, path_below: str) -> Tags:
    """Title, artist and album of `path`.

    Args:
        path: the file.
        path_below: its path below the library's folder, with `/`.
    """
    tags = embedded_tags(path)
    folders = path_below.split("/")[:-1]
    named_artist, separator, named_title = path.stem.partition(" - ")
    if not separator or re.fullmatch(r"[\d\s.-]*", named_artist):
        named_artist, named_title = "", path.stem
    album_artist = tags.get("album_artist") or tags.get("albumartist") or tags.get("album artist") or ""
    artist = main_artist(album_artist, tags.get("artist", ""))
    return Tags(
        title=tags.get("title") or clean_text(path.stem if folders else named_title),
        artist=artist or clean_text(folders[0] if folders else named_artist),
        album=tags.get("album") or clean_text(folders[-1] if len(folders) > 1 else ""),
    )


def embedded_tags(path: Path) -> dict[str, str]:
    """The tags by lower-case name; the container's before the stream's."""
    try:
        with open_container(path) as container:
            found = [*(stream.metadata for stream in container.streams.audio), container.metadata]
    except (av.error.FFmpegError, OSError, ValueError):
        return {}
    return {key.lower(): clean for tags in found for key, value in tags.items() if (clean := clean_text(value))}
