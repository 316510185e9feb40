"""Audio from a folder. Files are used where they lie, never copied.

A track's file is, in this order: the one whose path below the folder is the track id; the one whose path below the
folder is the longest end of the database's path of the track; the one whose name without extension is the track id.

Guarantee: only files below the folder are used, whatever the database says; a file that several tracks lead to is given
to none of them but the one whose id is its path, and an id that names files in several folders leads to none. Links
are followed, and every folder is walked once, so that a circle of links ends. Cost: one walk.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from student_clap.config.runtime.audio_files import is_audio_name
from student_clap.ingest.cache.container import NotAudioError, audio_extension
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.sources.base import Wanted

# Of files with one stem, audio goes before its lyrics, cover or cue sheet.
NOT_AUDIO_SUFFIXES = frozenset(
    {".lrc", ".txt", ".jpg", ".jpeg", ".png", ".webp", ".cue", ".log", ".nfo", ".m3u", ".m3u8", ".json"}
)


class FolderSource:
    """The files below `folder`.

    Args:
        folder: the folder.
        file_paths: track id -> path on the media server, "" where it is not known; of all tracks, for a file that two
            of them lead to is told by it.

    Raises:
        SourceError: on construction, if no folder is named.
    """

    def __init__(self, folder: Path | None, file_paths: Mapping[str, str]) -> None:
        if folder is None:
            raise SourceError("folder.path is not set; ingest.source is `folder` and needs the folder of the audio")
        self._folder = folder.absolute()
        self._file_paths = file_paths
        self._by_path: dict[str, Path] = {}  # path below the folder, with `/`
        self._by_stem: dict[str, list[Path]] = {}
        self._claimants: Counter[Path] = Counter()  # tracks that lead to a file

    def check(self) -> None:
        """List the folder. Raises SourceError if it is not there or empty."""
        if not os.path.isdir(self._folder):  # noqa: PTH112  Path.is_dir raises where a folder above may not be entered
            raise SourceError(f"folder.path {self._folder} is not a folder; is the disk mounted?")
        for path_id, path in walk_files(self._folder):
            self._by_path.setdefault(path_id, path)
            self._by_stem.setdefault(normal_text(path.stem), []).append(path)
        if not self._by_path:
            raise SourceError(f"folder.path {self._folder} holds no files; is the disk mounted?")
        led_to = (self._led_to(track_id, file_path) for track_id, file_path in self._file_paths.items())
        self._claimants.update(paths[0] for paths in led_to if len(paths) == 1)

    def check_audio(self, occasion: str) -> None:  # noqa: ARG002
        """See that the folder is still there: what else fails a file is that file's own. Raises SourceError."""
        if not os.path.isdir(self._folder):  # noqa: PTH112
            raise SourceError(f"folder.path {self._folder} is not a folder any more; is the disk mounted?")

    def fetch(self, wanted: Wanted) -> Path:
        """Find one track's file."""
        file_path = self._file_paths.get(wanted.track_id, "")
        paths = self._led_to(wanted.track_id, file_path)
        if not paths:
            also = f", and none that the database's path {file_path!r} ends in" if file_path else ""
            raise FetchError(
                f"{self._folder} has no file named by the track id{also}", permanent=True, kind="not in the folder"
            )
        path = paths[0]
        if len(paths) > 1:
            raise FetchError(
                f"the track id names files in {len(paths)} folders, such as {path} and {paths[1]}; set folder.path so"
                " that one of them lies below it",
                permanent=True,
                kind="ambiguous path",
            )
        if self._claimants[path] > 1 and path != self._by_path.get(normal_text(wanted.track_id)):
            raise FetchError(
                f"{path} fits the paths or the ids of {self._claimants[path]} tracks; set folder.path so that the paths"
                " below it tell them apart",
                permanent=True,
                kind="ambiguous path",
            )
        try:
            audio_extension(path)
        except NotAudioError as error:
            raise FetchError(f"{path} is not audio: {error}", permanent=True, kind="no audio") from None
        except OSError as error:
            raise FetchError(
                f"{path} cannot be read: {error.strerror}", permanent=False, kind="unreadable file"
            ) from None
        return path

    def _led_to(self, track_id: str, file_path: str) -> list[Path]:
        """The files that a track leads to: none, its own, or one of each folder where its id names several."""
        name = normal_text(track_id)
        found = self._by_path.get(name) or self._by_file_path(file_path)
        if found is not None:
            return [found]
        named = self._by_stem.get(name, [])
        if len(named) > 1:  # next to `1979.flac` there may be a `1979.pdf`, or the same song as `1979.mp3`
            named = [path for path in named if is_audio_name(path)] or named
        return list({path.parent: path for path in reversed(named)}.values())[::-1]

    def _by_file_path(self, file_path: str) -> Path | None:
        parts = [p for p in normal_text(file_path).replace("\\", "/").split("/") if p]
        for begin in range(len(parts)):
            if (found := self._by_path.get("/".join(parts[begin:]))) is not None:
                return found
        return None


def walk_files(folder: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[tuple[str, Path]]:
    """Every file below `folder` that is not by its suffix something else, as (its path below the folder, the file).

    Args:
        folder: absolute.
        on_error: told of every folder that cannot be listed; None passes over it.

    Returns:
        In an order that two walks share. The path has `/` and one spelling for accents; where two files have the same,
        both are given, and the first is the one that FolderSource finds.
    """
    walked: set[tuple[int, int]] = set()
    for directory, directories, names in os.walk(folder, onerror=on_error, followlinks=True):
        try:
            place = _place(directory)
        except OSError as error:
            if on_error is not None:
                on_error(error)
            directories.clear()
            continue
        if place in walked:
            directories.clear()
            continue
        walked.add(place)
        directories.sort()
        for name in sorted(names):
            path = Path(directory, name)
            if path.suffix.lower() not in NOT_AUDIO_SUFFIXES:
                yield normal_text(path.relative_to(folder).as_posix()), path


def normal_text(text: str) -> str:
    """One spelling for accents, which file systems write in two ways."""
    return unicodedata.normalize("NFC", text)


def _place(directory: str) -> tuple[int, int]:
    """Device and number of a folder, the same however it was reached. Raises OSError if it has gone."""
    stat = os.stat(directory)  # noqa: PTH116  a hundred thousand times
    return stat.st_dev, stat.st_ino
