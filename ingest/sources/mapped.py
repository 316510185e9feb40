"""Audio that this machine has already: the server's paths led through `ingest.map`, the rest downloaded.

A track is used in place where its path on the server begins with a mapped prefix, the longest one that fits, and the
local file is there and is audio. Guarantee: a folder that is not mounted ends the run, it does not turn into a download
of everything; a file is only ever read. Cost: paths that the source of vectors does not know are listed once, by the
media server.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from student_clap.config.runtime.text import one_line
from student_clap.ingest.cache.budget import require_room
from student_clap.ingest.cache.container import NotAudioError, audio_extension
from student_clap.ingest.http.errors import SourceError
from student_clap.ingest.http.secrets import masked
from student_clap.ingest.sources.base import ServerSource, Wanted
from student_clap.ingest.sources.path_map import LocalFiles, PathMap, ServerPath, parse_maps, parse_server_path

logger = logging.getLogger(__name__)


class MappedSource:
    """A media server and the folders in which its files lie here. Use as a context manager.

    Args:
        server: asked for the files that are not here, and for the paths that are known nowhere else.
        maps: the texts of `ingest.map`.
        file_paths: track id -> path on the server, as far as it is known.

    Raises:
        SourceError: on construction, if a map is malformed.
    """

    def __init__(self, server: ServerSource, maps: Sequence[str], file_paths: Mapping[str, str]) -> None:
        self._server = server
        self._maps = parse_maps(maps)
        self._files = LocalFiles()
        self._file_paths = file_paths
        self._listed: dict[str, str] | None = None  # the server's list, of the tracks that file_paths lacks
        self._listing = threading.Lock()
        self._compared = False
        self._server_checked = False
        self._checking = threading.Lock()
        self._counting = threading.Lock()
        self._counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._counts:
            return
        reasons = ", ".join(f"{n} {why}" for why, n in sorted(self._counts.items()) if why != "here")
        logger.info(
            "ingest.map: %d tracks used where they lie%s",
            self._counts["here"], f"; asked of the server: {reasons}" if reasons else "",
        )  # fmt: skip

    def check(self) -> None:
        """See that the folders are there and that the paths fit; the server is asked when it is first needed."""
        for path_map in self._maps:
            _require(path_map)
        if self._file_paths and not self._compared:
            self._compare(self._file_paths.values(), "AudioMuse-AI's")
        if self._server_checked:
            self._server.check()

    def check_audio(self, occasion: str) -> None:
        """Ask the server, from which every file comes that can fail."""
        self._need_server()
        self._server.check_audio(occasion)

    def fetch(self, wanted: Wanted) -> Path:
        """The local file, else a download."""
        path = self._path_of(wanted.track_id)
        local, why = self.find(path)
        with self._counting:
            self._counts[why] += 1
        if local is not None:
            return local
        logger.debug("track %s: %s (%r)", one_line(wanted.track_id), why, masked(path))
        require_room()
        self._need_server()
        return self._server.fetch(wanted)

    def _path_of(self, track_id: str) -> str:
        path = self._file_paths.get(track_id, "")
        if path:
            return path
        with self._listing:
            if self._listed is None:
                self._need_server()
                self._listed = self._list()
        return self._listed.get(track_id, "")

    def _list(self) -> dict[str, str]:
        listed = {
            track.track_id: track.path
            for page in self._server.list_tracks()
            for track in page
            if track.path and track.track_id not in self._file_paths
        }
        if not listed and not self._file_paths:
            raise SourceError(
                "neither AudioMuse-AI nor the media server says where the tracks lie, so ingest.map leads nowhere; use"
                " credentials that may see paths, or leave --map out"
            )
        if listed and not self._compared:
            self._compare(listed.values(), "the media server's")
        logger.info("the media server names the paths of %d more tracks", len(listed))
        return listed

    def _need_server(self) -> None:
        with self._checking:
            if not self._server_checked:
                self._server.check()
                self._server_checked = True

    def find(self, text: str) -> tuple[Path | None, str]:
        """The audio file that a server's path leads to, and the outcome in words.

        Raises:
            SourceError: the folder that the path leads into is not there, or empty.
        """
        if not text:
            return None, "without a known path"
        path = parse_server_path(text)
        found = next(_applying(self._maps, path), None) if path is not None else None
        if path is None or found is None:
            return None, "outside the mapped folders"
        path_map, rest = found
        local = self._files.find(path_map, path, rest)
        if local is None:
            # Is the disk gone, or only the file?
            _require(path_map)
            return None, "not in the mapped folder"
        try:
            audio_extension(local)
        except (OSError, NotAudioError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            logger.warning("%s cannot be used: %s; it is downloaded instead", one_line(local), reason)
            return None, "not readable as audio"
        return local, "here"

    def _compare(self, texts: Collection[str], whose: str) -> None:
        """Raise SourceError where no path fits any map: that is a wrong map, not a library without files."""
        parsed = (parse_server_path(text) for text in texts)
        n_fitting = sum(1 for path in parsed if path is not None and next(_applying(self._maps, path), None))
        if not n_fitting:
            example = next(iter(texts))
            raise SourceError(
                f"none of {whose} {len(texts)} paths begins as ingest.map says; they look like {example[:200]!r}, and"
                f" the maps are {', '.join(repr(m.text) for m in self._maps)}; correct --map or leave it out"
                + _relative_hint(example)
            )
        self._compared = True
        logger.info("ingest.map covers %d of %s %d paths", n_fitting, whose, len(texts))


def _applying(maps: Sequence[PathMap], path: ServerPath) -> Iterator[tuple[PathMap, tuple[str, ...]]]:
    return ((m, rest) for m in maps if (rest := m.rest_of(path)) is not None)


def _relative_hint(example: str) -> str:
    path = parse_server_path(example)
    if path is None or path.root:
        return ""
    return (
        "; the server gives paths within its music folder: switch on `Report Real Path` for the player student-clap in"
        " Navidrome, or map them with .=/mnt/nas/music"
    )


def _require(path_map: PathMap) -> None:
    """Raise SourceError if the folder is missing or empty, which an unmounted disk's folder is."""
    try:
        with os.scandir(path_map.local) as found:
            empty = next(found, None) is None
    except OSError as error:
        raise SourceError(
            f"the folder {path_map.local} of ingest.map {path_map.text!r} cannot be read ({error.strerror}); is the"
            " disk mounted?"
        ) from None
    if empty:
        raise SourceError(f"the folder {path_map.local} of ingest.map {path_map.text!r} is empty; is the disk mounted?")
