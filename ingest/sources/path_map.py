"""Paths of a media server translated to paths of this machine: `/music=/mnt/nas/music`.

A server may run on Windows, and may write a path as a URL, with either separator, in upper or lower case; the map's
prefix is compared by whole folders. Guarantee: whatever the server says, the outcome lies below the folder that the map
names. Symbolic links in that folder are the user's own and are followed.
"""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from student_clap.config.quantities import expanded
from student_clap.ingest.http.errors import SourceError

EXPECTED = "expected SERVER=LOCAL, such as /music=/mnt/nas/music"
_SCHEME = re.compile(r"(file|smb|nfs)://", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class ServerPath:
    """A path on a media server, taken apart."""

    root: str  # "/", "c:", "//host"; empty for a path relative to a folder that the server does not name
    parts: tuple[str, ...]

    @property
    def folds_case(self) -> bool:
        """Whether upper and lower case are one, as on Windows and its shares."""
        return self.root not in ("", "/")

    def key(self, part: str) -> str:
        """A form of `part` that two spellings of one name have in common."""
        part = unicodedata.normalize("NFC", part)
        return part.casefold() if self.folds_case else part


@dataclass(frozen=True)
class PathMap:
    """One `SERVER=LOCAL`."""

    text: str
    prefix: ServerPath
    local: Path  # absolute

    def rest_of(self, path: ServerPath) -> tuple[str, ...] | None:
        """The parts of `path` below the prefix; None if it is not below it."""
        n = len(self.prefix.parts)
        if path.root != self.prefix.root or len(path.parts) <= n:
            return None
        same = all(path.key(a) == path.key(b) for a, b in zip(self.prefix.parts, path.parts[:n], strict=True))
        return path.parts[n:] if same else None


def parse_maps(texts: Sequence[str]) -> list[PathMap]:
    """The maps, the longest prefix first. Raises SourceError naming the one that is malformed.

    >>> [m.prefix.parts for m in parse_maps(["/music=/mnt/a", "/music/new=/mnt/b"])]
    [('music', 'new'), ('music',)]
    """
    maps: list[PathMap] = []
    for text in texts:
        server, equals, local = (piece.strip() for piece in text.partition("="))
        prefix = parse_server_path(server)
        if not equals or not server or not local:
            raise SourceError(f"ingest.map {text!r} is not of the right form; {EXPECTED}")
        if prefix is None:
            raise SourceError(f"ingest.map {text!r}: the server's side may not hold `..`; {EXPECTED}")
        try:
            folder = Path(os.path.normpath(expanded(Path(local)).absolute()))
        except ValueError as error:
            raise SourceError(f"ingest.map {text!r}: {error}") from None
        twin = next((m for m in maps if m.prefix == prefix), None)
        if twin is not None and twin.local != folder:
            raise SourceError(f"ingest.map names two folders for {server!r}: {twin.local} and {folder}; keep one")
        maps.append(PathMap(text, prefix, folder))
    return sorted(maps, key=lambda m: -len(m.prefix.parts))


def parse_server_path(text: str) -> ServerPath | None:
    r"""Take a server's path apart; None if it holds `..` or NUL, as the path of no music file does.

    >>> parse_server_path("/music//a/./b.flac")
    ServerPath(root='/', parts=('music', 'a', 'b.flac'))
    >>> parse_server_path("D:\\Music/a.flac"), parse_server_path("\\\\NAS\\music\\a.flac")
    (ServerPath(root='d:', parts=('Music', 'a.flac')), ServerPath(root='//nas', parts=('music', 'a.flac')))
    >>> parse_server_path("smb://nas/music/a.flac"), parse_server_path("file:///m/a%20b.flac")
    (ServerPath(root='//nas', parts=('music', 'a.flac')), ServerPath(root='/', parts=('m', 'a b.flac')))
    >>> parse_server_path("Artist/a.flac"), parse_server_path("/music/../etc/passwd")
    (ServerPath(root='', parts=('Artist', 'a.flac')), None)
    """
    scheme = _SCHEME.match(text)
    if scheme is not None:
        text = text[scheme.end() :]
        text = unquote(text) if scheme[1].lower() == "file" else text
        # A host stands before the first slash; without one the path is the server's own.
        text = text if text.startswith("/") else f"//{text}"
        text = text.removeprefix("/") if re.match(r"/[A-Za-z]:", text) else text
        text = text.removeprefix("//localhost") if text.lower().startswith("//localhost/") else text
    path = PurePosixPath(text.replace("\\", "/"))  # POSIX has a root of its own, `//`, for a host
    root, parts = path.root, path.parts[1:] if path.root else path.parts
    if ".." in parts or "\0" in text:
        return None
    if root == "//":
        root, parts = f"//{''.join(parts[:1]).lower()}", parts[1:]
    elif not root and parts and _DRIVE.fullmatch(parts[0]):
        root, parts = parts[0].lower(), parts[1:]
    return ServerPath(root, parts)


class LocalFiles:
    """Finds files by names that another system wrote. For use by several threads."""

    def __init__(self) -> None:
        self._names = functools.lru_cache(256)(_names_by_key)

    def find(self, path_map: PathMap, path: ServerPath, rest: Sequence[str]) -> Path | None:
        """The file at `rest` below the map's folder, also where this machine spells a name another way.

        Two spellings of a name are composed and decomposed letters (NFC, NFD) and, of Windows, upper and lower case;
        where several names here have that spelling in common, the file cannot be told and none is given.
        """
        local = path_map.local.joinpath(*rest)
        if not local.is_relative_to(path_map.local) or Path(os.path.normpath(local)) != local:
            return None  # a part that this system reads as a drive or a root
        if os.path.isfile(local):  # noqa: PTH113  Path.is_file raises for names that are too long
            return local
        current = path_map.local
        for part in rest:
            if os.path.lexists(current / part):
                current /= part
                continue
            names = self._names(current, path.folds_case).get(path.key(part), ())
            if len(names) != 1:
                return None
            current /= names[0]
        return current if os.path.isfile(current) else None  # noqa: PTH113


def _names_by_key(folder: Path, folds_case: bool) -> dict[str, list[str]]:  # noqa: FBT001
    """The folder's names by the form that their spellings have in common."""
    like = ServerPath("//" if folds_case else "/", ())
    names: dict[str, list[str]] = {}
    try:
        for name in os.listdir(folder):  # noqa: PTH208
            names.setdefault(like.key(name), []).append(name)
    except OSError:
        return {}
    return names
