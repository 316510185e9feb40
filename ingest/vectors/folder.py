"""A folder of audio and a teacher's ONNX as the source of vectors: no AudioMuse-AI and no server is needed.

Every audio file is a track; its id is its path below the folder. `item_id` is a mark of the file's size and time and
of the model, so that the next run asks the teacher for new and changed files only, and for all of them when the model
has changed. Rows get the track's vector and one for every segment.

Guarantee: tracks come in the order of their paths, a few at a time as they are done, so that a killed run loses the
work on a few tracks at most. A file that gives no audio becomes a failed row with the reason, and is tried again by
every run; a file or folder that cannot be read takes nothing away from the store. Ctrl-C ends within a few seconds.
Cost: decoding, and the teacher's time per segment (0.3 s of one core is usual, so 15 s for four minutes).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from student_clap.config.runtime.audio_files import is_audio_name
from student_clap.config.runtime.machine import available_cores
from student_clap.config.runtime.text import one_line
from student_clap.config.schema import Config
from student_clap.featurize.audio.decode import DecodeError, decode
from student_clap.featurize.teacher.model import NoVectorError, Teacher, TeacherError
from student_clap.ingest.cache.container import NotAudioError, audio_extension
from student_clap.ingest.http.errors import StoppedError
from student_clap.ingest.id_map import IdMap
from student_clap.ingest.sources.folder import walk_files
from student_clap.ingest.sources.tags import read_tags
from student_clap.ingest.vectors.base import DEFAULT_SERVER_ID, MusicServer, SourceTrack, VectorSourceError
from student_clap.store import FeatureStore, row_blocks

logger = logging.getLogger(__name__)

FLUSH_TRACKS = 8  # embedded tracks of a batch
_FLUSH_S = 30.0
_MOST_TRACKS_AT_ONCE = 8  # each holds up to 0.2 GB


@dataclass(frozen=True)
class _File:
    """A file that may be a track."""

    track_id: str
    path: Path


class TeacherFolder:
    """The files of folder.path, embedded by teacher.model. Use as a context manager."""

    def __init__(self, config: Config) -> None:
        """Open the teacher. Raises VectorSourceError if a setting is missing, or the model cannot be used."""
        if config.ingest.source != "folder" or config.folder.path is None:
            raise VectorSourceError(
                "ingest.vectors: teacher embeds a folder of audio; set ingest.source: folder and folder.path"
            )
        if config.teacher.model is None:
            raise VectorSourceError("teacher.model is not set; ingest.vectors: teacher needs the teacher's ONNX")
        self._folder = config.folder.path.absolute()
        cores = available_cores()
        self._n_workers = min(cores, _MOST_TRACKS_AT_ONCE)
        try:
            self._teacher = Teacher(
                config.teacher.model, hop_samples=config.teacher.declared_hop, threads=max(1, cores // self._n_workers)
            )
        except TeacherError as error:
            raise VectorSourceError(error.message) from error
        self.server = MusicServer(DEFAULT_SERVER_ID, f"the folder {self._folder}", "", is_default=True)
        self._files: list[_File] = []
        self._complete = True
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(self._n_workers, thread_name_prefix="teacher")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def count(self) -> int:
        """Audio files of the folder. Raises VectorSourceError if there are none, or no such folder."""
        if not self._folder.is_dir():
            raise VectorSourceError(f"folder.path {self._folder} is not a folder; is the disk mounted?")
        self._files = list(self._list_files())
        if not self._files:
            raise VectorSourceError(f"folder.path {self._folder} holds no audio; is the disk mounted?")
        logger.info("%s: %d audio files", self._folder, len(self._files))
        return len(self._files)

    def tracks(self, store: FeatureStore | None, batch_rows: int) -> Iterator[list[SourceTrack]]:
        """The tracks, in batches that end after FLUSH_TRACKS new ones or half a minute. After `count`.

        Raises:
            VectorSourceError: the model fails. The batches before are complete.
        """
        try:
            with _current_marks(store, self.server.server_id) as current:
                yield from self._batches(current, batch_rows)
        except TeacherError as error:
            raise VectorSourceError(error.message) from error

    def complete(self) -> bool:
        """Whether every folder could be listed and every file read."""
        return self._complete

    def _batches(self, current: IdMap[str], batch_rows: int) -> Iterator[list[SourceTrack]]:
        model = self._teacher.digest
        waiting: deque[SourceTrack | Future[SourceTrack | None]] = deque()
        files = iter(self._files)
        batch: list[SourceTrack] = []
        n_new, began_s = 0, time.monotonic()
        while True:
            # As much is under way as keeps the workers busy behind the one that is waited for.
            while sum(isinstance(w, Future) for w in waiting) < 2 * self._n_workers and len(waiting) < batch_rows:
                if (file := next(files, None)) is None:
                    break
                if (one := self._begin(file, model, current)) is not None:
                    waiting.append(one)
            if not waiting:
                break
            first = waiting.popleft()
            track = first.result() if isinstance(first, Future) else first
            n_new += isinstance(first, Future)
            batch += [] if track is None else [track]
            due = n_new >= FLUSH_TRACKS or (n_new and time.monotonic() - began_s > _FLUSH_S)
            if len(batch) >= batch_rows or (batch and due):
                yield batch
                batch, n_new, began_s = [], 0, time.monotonic()
        if batch:
            yield batch

    def _list_files(self) -> Iterator[_File]:
        seen: dict[str, Path] = {}
        for track_id, path in walk_files(self._folder, self._unlisted):
            if any(part.startswith(".") for part in track_id.split("/")) or not self._is_audio(path):
                continue
            if not _is_utf8(track_id):
                logger.warning("%r is left out: its name is not UTF-8; rename it", os.fsencode(path))
            elif track_id in seen:
                logger.warning("%s is left out: %s has the same name in another spelling", path, seen[track_id])
            else:
                seen[track_id] = path
                yield _File(track_id, path)

    def _unlisted(self, error: OSError) -> None:
        logger.warning("the folder %s cannot be listed: %s", error.filename, error.strerror)
        self._complete = False

    def _is_audio(self, path: Path) -> bool:
        """By its suffix, else by its content. A damaged file with an audio suffix counts, so that it gets a reason."""
        if is_audio_name(path):
            return path.is_file()
        try:
            if not path.is_file():
                return False
            audio_extension(path)
        except (NotAudioError, OSError):
            return False
        return True

    def _begin(self, file: _File, model: str, current: IdMap[str]) -> SourceTrack | Future[SourceTrack | None] | None:
        """A track that the store has, or one under way."""
        try:
            stat = file.path.stat()
        except OSError as error:
            self._unreadable(file, error)
            return None
        audio_mark = f"{stat.st_size:x}-{stat.st_mtime_ns:x}-"
        mark = audio_mark + model
        if current.get(file.track_id) == mark:
            return SourceTrack(file.track_id, mark, "", "", "", "", None, kept=True)
        return self._pool.submit(self._embed, file, mark, audio_mark)

    def _embed(self, file: _File, mark: str, audio_mark: str) -> SourceTrack | None:
        """Ask the teacher; on a worker. None for a file that cannot be read now."""
        self._proceed()
        tags = read_tags(file.path, file.track_id)
        texts = (file.track_id, mark, tags.title, tags.artist, tags.album, str(file.path))
        try:
            samples = decode(file.path, self._teacher.max_samples)
        except DecodeError as error:
            try:
                read_through(file.path)
            except OSError as fault:
                self._unreadable(file, fault)
                return None
            return SourceTrack(*texts, None, error=one_line(error), audio_mark=audio_mark)
        try:
            vector, segments = self._teacher.embed(samples, self._proceed)
        except NoVectorError as error:
            return SourceTrack(*texts, None, error=one_line(error), audio_mark=audio_mark)
        return SourceTrack(*texts, vector.astype("<f4").tobytes(), segments.astype(np.float16), audio_mark=audio_mark)

    def _unreadable(self, file: _File, error: OSError) -> None:
        logger.warning("%s cannot be read: %s; the next run tries again", file.path, error.strerror)
        self._complete = False

    def _proceed(self) -> None:
        if self._stop.is_set():
            raise StoppedError


@contextmanager
def open_vectors(config: Config, wanted: str | None) -> Iterator[TeacherFolder]:  # noqa: ARG001  a folder has no servers
    """The tracks of a folder, for the length of the block.

    Raises:
        VectorSourceError: a setting is missing, or the model cannot be used.
    """
    with TeacherFolder(config) as folder:
        yield folder


def _current_marks(store: FeatureStore | None, server_id: str) -> IdMap[str]:
    """Track id -> mark, of the rows that have the vector and those of its segments."""
    current = IdMap[str]()
    if store is None:
        return current
    n_segments = store.n_segment_teacher()
    for begin, end in row_blocks(store.n_tracks):
        columns = (store.strings(name, begin, end) for name in ("server_id", "track_id", "item_id"))
        finite = np.asarray(np.isfinite(store.teacher(begin, end)).all(axis=1))
        current.add(
            (track_id, mark)
            for row, (server, track_id, mark) in enumerate(zip(*columns, strict=True))
            if server == server_id and finite[row] and n_segments[begin + row]
        )
    return current


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_through(path: Path) -> None:
    """Read the whole file, to tell a damaged file from a disk that is not there. Raises OSError."""
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass
