"""The audio cache: one file per track, at a name that follows from (server_id, track_id) alone.

    <cache>/<server>-<hash>/<2 hex>/<32 hex>.<extension>

Guarantee: no name in it was chosen by a server; a file with such a name is complete. One process writes at a time,
held by a lock file that the operating system frees. Of the partial files of earlier runs those stay that a run may
continue (see `partial`) and that belong to a track which is still wanted.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
from filelock import FileLock, Timeout

from student_clap.ingest.cache import partial
from student_clap.ingest.http.errors import SourceError

LOCK_NAME = "ingest.lock"
_FILE = re.compile(r"[0-9a-f]{32}\.[a-z0-9]{2,4}")  # a whole file
_RELATIVE = re.compile(r"[^/]+/[0-9a-f]{2}/" + _FILE.pattern)


class AudioCache:
    """The files of one server. Use as a context manager, which holds the lock."""

    def __init__(self, root: Path, server_id: str) -> None:
        slug = re.sub(r"[^a-z0-9]+", "-", server_id.lower())[:24].strip("-")
        digest = hashlib.sha256(server_id.encode()).hexdigest()[:8]
        self.root = root
        self.server_id = server_id
        self._directory = root / "-".join(p for p in (slug, digest) if p)
        self._lock = FileLock(root / LOCK_NAME)
        # Of the files that were there: the first 8 bytes of their names, rising, and which extension they have.
        self._names = np.zeros(0, np.uint64)
        self._extension_of = np.zeros(0, np.uint16)
        self._extensions: list[str] = []  # with their dots

    def __enter__(self) -> Self:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise SourceError(
                f"another ingest is using the audio cache {self.root}; wait for it to end, or set ingest.cache_dir"
            ) from None
        except OSError as error:
            raise SourceError(f"the audio cache {self.root} cannot be used: {error}; see ingest.cache_dir") from None
        self._list()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def stem(self, track_id: str) -> Path:
        """Where the audio of `track_id` belongs, without the extension."""
        name = hashlib.sha256(f"{self.server_id}\0{track_id}".encode()).hexdigest()[:32]
        return self._directory / name[:2] / name

    def find(self, track_id: str) -> Path | None:
        """The file of `track_id` that was there when the cache was opened."""
        stem = self.stem(track_id)
        number = np.uint64(_number(stem.name))
        begin, end = np.searchsorted(self._names, number, "left"), np.searchsorted(self._names, number, "right")
        # Several where names begin alike; only the track's own is at its path.
        found = (stem.with_name(stem.name + self._extensions[e]) for e in self._extension_of[begin:end].tolist())
        return next((path for path in found if os.path.isfile(path)), None)  # noqa: PTH113  never raises

    def _list(self) -> None:
        """Read the names of the files: 10 bytes of memory per file."""
        names, extensions = array("Q"), array("H")
        for path in self._directory.glob("*/*"):
            if _FILE.fullmatch(path.name) and path.suffix != partial.DATA_SUFFIX:
                if path.suffix not in self._extensions:
                    self._extensions.append(path.suffix)
                names.append(_number(path.name))
                extensions.append(self._extensions.index(path.suffix))
        order = np.argsort(np.frombuffer(names, np.uint64), kind="stable") if names else np.zeros(0, np.int64)
        self._names = np.array(names, np.uint64)[order]
        self._extension_of = np.array(extensions, np.uint16)[order]

    def sweep(self, wanted: Iterable[Path]) -> None:
        """Remove the partial files that do not belong to the stems `wanted`, and those that cannot be continued."""
        there = partial.names(self._directory)
        if there:
            partial.sweep(self._directory, there.intersection(stem.name for stem in wanted))

    def relative(self, path: Path) -> str:
        """`path` as the store's `audio` column has it: absolute where it is the user's own file, not the cache's."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path.absolute())


def _number(name: str) -> int:
    return int(name[:16], 16)


def is_cached(audio: str) -> bool:
    """Whether a text of the store's `audio` column names a file that this cache made, which it may also remove.

    >>> is_cached("main-0a1b2c3d/ab/" + "ab" * 16 + ".flac"), is_cached("/mnt/nas/music/a.flac")
    (True, False)
    """
    return _RELATIVE.fullmatch(audio) is not None and not audio.endswith(partial.DATA_SUFFIX)
