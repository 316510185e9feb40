"""The audio files of a folder as tracks without vectors.

Every audio file is a track; its id is its path below the folder. `item_id` is a mark of the file's size and time: a
file that changed loses what was made of the file before, and only new and changed files are opened for their tags.

Guarantee: tracks come in the order of their paths; a file or folder that cannot be read takes nothing away from the
store. Nothing is decoded. Cost: one walk, and the tags of new files (some 5 ms each).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from student_clap.config.runtime.audio_files import is_audio_name
from student_clap.config.runtime.machine import available_cores
from student_clap.config.runtime.parallel import in_order
from student_clap.config.runtime.text import one_line
from student_clap.ingest.cache.container import NotAudioError, audio_extension
from student_clap.ingest.id_map import IdMap
from student_clap.ingest.sources.folder import walk_files
from student_clap.ingest.sources.tags import read_tags
from student_clap.ingest.vectors.base import DEFAULT_SERVER_ID, MusicServer, SourceTrack, VectorSourceError
from student_clap.store import FeatureStore, row_blocks

logger = logging.getLogger(__name__)
_PATH_CHARACTERS = 4096  # the longest that there are


@dataclass(frozen=True)
class _File:
    """A file that may be a track."""

    track_id: str
    path: Path


class FolderTracks:
    """The audio files below a folder, as a VectorSource."""

    def __init__(self, folder: Path | None) -> None:
        """Raises VectorSourceError if no folder is named."""
        if folder is None:
            raise VectorSourceError(
                "folder.path is not set; ingest.source is `folder` and needs the folder of the audio"
            )
        self._folder = folder.absolute()
        self.server = MusicServer(DEFAULT_SERVER_ID, f"the folder {self._folder}", "", is_default=True)
        self._files: list[_File] = []
        self._complete = True

    def count(self) -> int:
        """Audio files of the folder. Raises VectorSourceError if there are none, or no such folder."""
        if not os.path.isdir(self._folder):  # noqa: PTH112  Path.is_dir raises where a folder above may not be entered
            raise VectorSourceError(f"folder.path {self._folder} is not a folder; is the disk mounted?")
        self._files = list(self._list_files())
        if not self._files:
            raise VectorSourceError(f"folder.path {self._folder} holds no audio; is the disk mounted?")
        logger.info("%s: %d audio files", self._folder, len(self._files))
        return len(self._files)

    def tracks(self, store: FeatureStore | None, batch_rows: int) -> Iterator[list[SourceTrack]]:
        """The tracks. After `count`. Raises VectorSourceError if no file can be read."""
        n_tracks = 0
        with _marks(store, self.server.server_id) as marks:
            for begin in range(0, len(self._files), batch_rows):
                files = self._files[begin : begin + batch_rows]
                describe = partial(self._describe, marks.find([file.track_id for file in files]))
                described = in_order(describe, files, threads=available_cores())
                if batch := [track for track in described if track is not None]:
                    n_tracks += len(batch)
                    yield batch
        if not n_tracks:
            raise VectorSourceError(f"none of the {len(self._files)} audio files of {self._folder} can be read")

    def complete(self) -> bool:
        """Whether every folder could be listed and every file be opened."""
        return self._complete

    def _list_files(self) -> Iterator[_File]:
        seen: dict[str, Path] = {}
        for track_id, path in walk_files(self._folder, self._unlisted):
            if any(part.startswith(".") for part in track_id.split("/")) or not self._is_audio(path):
                continue
            if not _is_utf8(track_id):
                logger.warning("%r is left out: its name is not UTF-8; rename it", os.fsencode(path))
            elif track_id in seen:
                logger.warning(
                    "%s is left out: %s has the same name in another spelling", _shown(path), _shown(seen[track_id])
                )
            else:
                seen[track_id] = path
                yield _File(track_id, path)

    def _unlisted(self, error: OSError) -> None:
        logger.warning("the folder %s cannot be listed: %s", _shown(error.filename), error.strerror)
        self._complete = False

    def _is_audio(self, path: Path) -> bool:
        """By its suffix, else by its content. A damaged file with an audio suffix counts, so that it gets a reason."""
        try:
            if not path.is_file():
                return False
            if not is_audio_name(path):
                audio_extension(path)
        except NotAudioError:
            return False
        except OSError as error:
            self._unread(path, error)
            return False
        return True

    def _unread(self, path: Path, error: OSError) -> None:
        logger.warning("%s cannot be read: %s; the next run tries again", _shown(path), error.strerror)
        self._complete = False

    def _describe(self, marks: Mapping[str, str], file: _File) -> SourceTrack | None:
        """The track; without texts where the store's mark is current. None for a file that cannot be read now."""
        known = marks.get(file.track_id, "")
        try:
            stat = file.path.stat()
            mark = f"{stat.st_size:x}-{stat.st_mtime_ns:x}-"
            # A mark of before had the digest of a model behind it.
            if known.startswith(mark):
                return SourceTrack(file.track_id, known, "", "", "", str(file.path), None, bare=True)
            with file.path.open("rb") as opened:
                opened.read(1)
        except OSError as error:
            self._unread(file.path, error)
            return None
        tags = read_tags(file.path, file.track_id)
        return SourceTrack(
            file.track_id,
            mark,
            tags.title,
            tags.artist,
            tags.album,
            str(file.path),
            None,
            bare=True,
            audio_mark=mark,
        )


def _marks(store: FeatureStore | None, server_id: str) -> IdMap[str]:
    """Track id -> mark, of the rows of a server."""
    marks = IdMap[str]()
    if store is not None:
        for begin, end in row_blocks(store.n_tracks):
            columns = (store.strings(name, begin, end) for name in ("server_id", "track_id", "item_id"))
            marks.add((track_id, mark) for server, track_id, mark in zip(*columns, strict=True) if server == server_id)
    return marks


def _shown(path: Path | str) -> str:
    """A path as a message has it: a name may hold a line break."""
    return one_line(path, _PATH_CHARACTERS)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
