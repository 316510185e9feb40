"""Title, artist and album of an audio file: from its tags, else from where it lies.

A split holds tracks apart by their artist, so the artist should be the one whose sound it is: the album artist before
the track's (`X feat. Y` goes with `X`), but the track's where the album is a compilation. Without tags the folders are
read as Artist/Album/Title, then the name as `Artist - Title`. Guarantee: a file without tags, or with broken ones, is
not an error. Cost: opening the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import av

from student_clap.config.runtime.container import open_container

_COMPILATIONS = frozenset({"various artists", "various", "va", "v.a.", "v/a", "unknown artist", "soundtrack"})
_MOST_CHARACTERS = 500  # that AudioMuse-AI keeps of a title


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
    artist = tags.get("album_artist") or tags.get("albumartist") or tags.get("album artist") or ""
    if not artist or artist.casefold() in _COMPILATIONS:
        artist = tags.get("artist") or artist
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


def clean_text(text: str) -> str:
    """One line of text that UTF-8 and a database can hold."""
    text = text.encode("utf-8", "replace").decode()
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_MOST_CHARACTERS]
